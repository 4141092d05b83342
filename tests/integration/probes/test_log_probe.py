"""The log probe on real files that are written, rotated, truncated, removed and flooded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from watchdog.clock import SystemClock
from watchdog.core.model import Sample
from watchdog.probes import MeasurementError, ProbeContext
from watchdog.probes.log import LogProbe, LogProbeSettings
from watchdog.system.http import HttpClient


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "app.log"
    file.write_text("ERROR of old\n")
    return file


@pytest.fixture
async def probe(path: Path, http: HttpClient) -> AsyncIterator[LogProbe]:
    shape = {"kind": "log", "path": str(path), "patterns": {"error": "ERROR", "slow": r"took \d{4,} ms"}}
    made = LogProbe(LogProbeSettings.model_validate(shape), ProbeContext("app", SystemClock(), http, {}, {}))
    yield made
    await made.close()


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def counts(samples: tuple[Sample, ...]) -> dict[str, float]:
    return {dict(s.labels).get("pattern", s.name): s.value for s in samples}


async def look(probe: LogProbe) -> dict[str, float]:
    return counts((await probe.measure()).samples)


async def test_lines_count_from_now_on_by_pattern(probe: LogProbe, path: Path) -> None:
    """What stood there before is old; a line counts for each pattern that it matches, and once it is whole."""
    assert (await look(probe))["error"] == 0
    append(path, "ERROR took 12345 ms\nfine\nERROR ha")
    found = await look(probe)
    assert (found["error"], found["slow"], found["log_lines_total"]) == (1, 1, 2)
    append(path, "lf\n")
    measurement = await probe.measure()
    assert counts(measurement.samples)["error"] == 2
    assert measurement.note == "error: ERROR half"
    assert counts(measurement.samples)["log_size_bytes"] == path.stat().st_size


async def test_a_match_is_emitted_without_a_measurement(probe: LogProbe, path: Path) -> None:
    """The watch tells a match soon after it was written, and nothing of lines that match nothing."""
    heard: asyncio.Queue[dict[str, float]] = asyncio.Queue()
    await probe.measure()
    task = asyncio.create_task(probe.watch(lambda samples: heard.put_nowait(counts(tuple(samples)))))
    append(path, "fine\n")
    append(path, "ERROR\n")
    found = await asyncio.wait_for(heard.get(), 20)
    assert found["error"] == 1
    assert heard.empty()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_rotation_loses_no_line(probe: LogProbe, path: Path) -> None:
    """Lines at the end of the old file, in the moved file, and from the beginning of the new one all count."""
    await probe.measure()
    append(path, "ERROR 1\n")
    old = path.rename(path.with_name("app.log.1"))
    with pytest.raises(MeasurementError, match="is not there") as caught:
        await probe.measure()
    assert counts(caught.value.samples)["error"] == 1
    append(old, "ERROR 2\nERROR 3")
    path.write_text("ERROR 4\n")
    assert (await look(probe))["error"] == 4


async def test_a_truncated_file_is_read_from_its_beginning(probe: LogProbe, path: Path) -> None:
    """Copy-and-truncate goes on counting."""
    await probe.measure()
    append(path, "ERROR 1\n")
    await probe.measure()
    path.write_text("")
    await probe.measure()
    append(path, "ERROR 2\n")
    assert (await look(probe))["error"] == 2


async def test_a_log_that_comes_later_is_read_whole(probe: LogProbe, path: Path) -> None:
    """It was not there when we came, so none of it is old."""
    path.unlink()
    with pytest.raises(MeasurementError):
        await probe.measure()
    path.write_text("ERROR first\n")
    assert (await look(probe))["error"] == 1


async def test_long_lines_are_cut(probe: LogProbe, path: Path) -> None:
    """Of a line without end only its beginning is searched and kept, and the next line counts again."""
    await probe.measure()
    append(path, "x" * 5000 + "ERROR\n")
    append(path, "ERROR" + "y" * 200_000)
    await probe.measure()
    append(path, "ERROR\nERROR\n")
    found = await look(probe)
    assert (found["error"], found["log_lines_cut_total"], found["log_lines_total"]) == (2, 2, 3)


async def test_a_flood_is_read_in_pieces_over_a_rotation(probe: LogProbe, path: Path) -> None:
    """More than one look takes is read by the following ones, before the new file's turn comes."""
    await probe.measure()
    append(path, ("." * 1023 + "\n") * 5 * 1024 + "ERROR last\n")
    path.rename(path.with_name("app.log.1"))
    path.write_text("ERROR new\n")
    first = await look(probe)
    assert first["error"] == 0
    assert first["log_bytes_total"] == 4 * 1024 * 1024
    assert (await look(probe))["error"] == 2


async def test_a_file_that_cannot_be_read_fails_and_nothing_is_held(path: Path, probe: LogProbe) -> None:
    """A directory in the log's place fails with its reason; the file that replaces it is read."""
    path.unlink()
    path.mkdir()
    held = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match="directory"):
        await probe.measure()
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == held
    path.rmdir()
    path.write_text("ERROR back\n")
    assert (await look(probe))["error"] == 1
