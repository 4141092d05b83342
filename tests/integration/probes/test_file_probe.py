"""The file probe on real files: figures, checksums, patterns, absence, and what cannot be looked at."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from watchdog.clock import SystemClock
from watchdog.core.model import Measurement
from watchdog.errors import ProbeError
from watchdog.probes import MeasurementError, ProbeContext
from watchdog.probes.file import FileProbe, FileProbeSettings
from watchdog.system.http import HttpClient

now = SystemClock().now


def probe_of(http: HttpClient, **settings: Any) -> FileProbe:
    shape = FileProbeSettings.model_validate({"kind": "file", **settings})
    return FileProbe(shape, ProbeContext("mine", SystemClock(), http, {}, {}))


def values(measurement: Measurement) -> dict[str, float]:
    return {sample.name: sample.value for sample in measurement.samples}


async def test_a_file_has_its_figures(tmp_path: Path, http: HttpClient) -> None:
    """Age, size, mode, owner and checksum are those of the file, beside what was asked for."""
    file = tmp_path / "a b"
    file.write_bytes(b"content")
    file.chmod(0o640)
    os.utime(file, (now() - 500, now() - 500))
    measurement = await probe_of(http, path=str(file), checksum=True, max_age="1h", max_size="1KiB").measure()
    found = values(measurement)
    digest = hashlib.sha256(b"content").hexdigest()
    assert found.pop("file_age_seconds") == pytest.approx(500, abs=60)
    assert found == {
        "file_exists": 1,
        "file_wanted": 1,
        "file_size_bytes": 7,
        "file_mode": 0o640,
        "file_owner_uid": os.getuid(),
        "file_group_gid": file.stat().st_gid,
        "file_max_age_seconds": 3600,
        "file_max_size_bytes": 1024,
        "file_checksum": int(digest[:12], 16),
    }
    assert digest in measurement.note


async def test_a_change_of_content_changes_the_checksum(tmp_path: Path, http: HttpClient) -> None:
    """Also one that keeps size and modification time; and it no longer matches what it should be."""
    file = tmp_path / "conf"
    file.write_bytes(b"right")
    os.utime(file, (now(), now()))
    probe = probe_of(http, path=str(file), sha256=hashlib.sha256(b"right").hexdigest())
    before = values(await probe.measure())
    assert before["file_checksum_matches"] == 1
    file.write_bytes(b"wrong")
    os.utime(file, (now(), now()))
    after = values(await probe.measure())
    assert after["file_checksum_matches"] == 0
    assert after["file_checksum"] != before["file_checksum"]


async def test_absence_is_measured(tmp_path: Path, http: HttpClient) -> None:
    """A file that is not there is a measurement with what was wanted beside it."""
    measurement = await probe_of(http, path=str(tmp_path / "none"), wanted=False).measure()
    assert values(measurement) == {"file_exists": 0, "file_wanted": 0}
    assert "is not there" in measurement.note


async def test_a_pattern_gives_count_newest_and_oldest(tmp_path: Path, http: HttpClient) -> None:
    """Of the matching regular files only; directories and other names do not count."""
    began = now()
    for name, age in (("a.dump", 300), ("b.dump", 100), ("c.dump", 200), ("d.txt", 1)):
        (tmp_path / name).write_bytes(bytes(age))
        os.utime(tmp_path / name, (began - age, began - age))
    (tmp_path / "e.dump").mkdir()
    found = values(await probe_of(http, pattern=str(tmp_path / "*.dump"), min_count=2).measure())
    drift = found["files_newest_age_seconds"] - 100
    assert 0 <= drift < 60
    assert found["files_oldest_age_seconds"] == pytest.approx(300 + drift)
    assert (found["files_count"], found["files_size_bytes"], found["files_newest_size_bytes"]) == (3, 600, 100)
    assert found["files_min_count"] == 2


async def test_a_pattern_without_files_has_no_ages(tmp_path: Path, http: HttpClient) -> None:
    """None is a count of 0, and nothing is said of a newest one."""
    found = values(await probe_of(http, pattern=str(tmp_path / "*.dump")).measure())
    assert found == {"files_count": 0, "files_size_bytes": 0}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        pytest.param("large", "too large for a checksum", id="large"),
        pytest.param("pipe", "no regular file", id="pipe"),
    ],
)
async def test_what_has_no_checksum_still_has_figures(
    name: str, complaint: str, tmp_path: Path, http: HttpClient
) -> None:
    """A large file is not read and a pipe does not hang us: a failure with the other figures."""
    (tmp_path / "large").write_bytes(bytes(1025))
    os.mkfifo(tmp_path / "pipe")
    probe = probe_of(http, path=str(tmp_path / name), checksum=True, max_checksum_size="1KiB")
    with pytest.raises(MeasurementError, match=complaint) as caught:
        await probe.measure()
    assert {"file_exists", "file_size_bytes"} <= {sample.name for sample in caught.value.samples}


async def test_more_files_than_can_be_looked_at_are_a_failure(tmp_path: Path, http: HttpClient) -> None:
    """A pattern that names a crowd is told instead of being counted for minutes."""
    for number in range(10_001):
        (tmp_path / str(number)).touch()
    with pytest.raises(ProbeError, match="more than 10000 files"):
        await probe_of(http, pattern=str(tmp_path / "*")).measure()


async def test_what_cannot_be_looked_at_is_a_failure(tmp_path: Path, http: HttpClient) -> None:
    """A path through a file is not absence."""
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        await probe_of(http, path=str(tmp_path / "file" / "x")).measure()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="neither"),
        pytest.param({"path": "/x", "pattern": "/y"}, id="both"),
        pytest.param({"pattern": "/y", "checksum": True}, id="checksum-of-many"),
        pytest.param({"path": "/x", "min_count": 2}, id="count-of-one"),
        pytest.param({"path": "/x", "sha256": "abc"}, id="short-digest"),
    ],
)
def test_what_cannot_be_meant_is_refused_of_a_file(settings: dict[str, Any]) -> None:
    """Each mistake is told when the configuration is read."""
    with pytest.raises(ValidationError):
        FileProbeSettings.model_validate({"kind": "file", **settings})
