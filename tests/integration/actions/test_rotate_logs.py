"""Compressing rotated logs: nothing is lost, and nothing else is touched."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from watchdog.core.model import Outcome
from watchdog.errors import ActionError

DAY = 86400
LINES = b"a line of a log, like many others\n" * 3000


def log_of(file: Path, days: float = 5) -> Path:
    file.write_bytes(LINES)
    written = int(file.stat().st_mtime - days * DAY)
    os.utime(file, (written, written))
    return file


@pytest.fixture
def place(tmp_path: Path) -> Path:
    found = tmp_path / "log"
    found.mkdir()
    return found


@pytest.fixture
def rotate(make: Any, place: Path) -> Any:
    return make("rotate_logs", directories=[str(place)], patterns=["*.log.[0-9]*"], min_age="1d")


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def test_old_logs_become_small_and_stay_whole(rotate: Any, place: Path) -> None:
    """The same content, mode and time under another name; the log in use, a young one and a packed one stay."""
    old = log_of(place / "a.log.1")
    old.chmod(0o640)
    before = old.stat()
    log_of(place / "a.log")
    log_of(place / "a.log.2", days=0.1)
    log_of(place / "a.log.3.gz")
    survey = await rotate.survey()
    assert (await rotate.observe(survey)).outcome is Outcome.NOT_DONE
    assert (await rotate.perform(survey)).startswith("compressed 1 files, freed ")
    assert names(place) == {"a.log", "a.log.1.gz", "a.log.2", "a.log.3.gz"}
    packed = place / "a.log.1.gz"
    assert gzip.decompress(packed.read_bytes()) == LINES
    after = packed.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    assert after.st_size < before.st_size / 10
    assert (await rotate.observe(survey)).outcome is Outcome.DONE


async def test_what_a_crash_left_behind_is_made_anew(rotate: Any, place: Path) -> None:
    """Half of a file, and a whole one whose original is still there, do no harm and are not kept."""
    for name in ("a.log.1", "a.log.2"):
        log_of(place / name)
    (place / ".a.log.1.gz.partial").write_bytes(b"half")
    (place / "a.log.2.gz").write_bytes(gzip.compress(LINES))
    times = (place / "a.log.2").stat()
    os.utime(place / "a.log.2.gz", ns=(times.st_atime_ns, times.st_mtime_ns))
    await rotate.perform(await rotate.survey())
    assert names(place) == {"a.log.1.gz", "a.log.2.gz"}
    for name in names(place):
        assert gzip.decompress((place / name).read_bytes()) == LINES


async def test_another_file_of_that_name_is_never_replaced(rotate: Any, place: Path) -> None:
    """It is told, the other stays as it is, and so does the original."""
    log_of(place / "a.log.1")
    (place / "a.log.1.gz").write_bytes(b"somebody's")
    with pytest.raises(ActionError, match=r"compressed 0 files.*is there already"):
        await rotate.perform(await rotate.survey())
    assert (place / "a.log.1.gz").read_bytes() == b"somebody's"
    assert (place / "a.log.1").read_bytes() == LINES


async def test_a_log_that_is_written_again_stays(rotate: Any, place: Path) -> None:
    """What changed since the survey is not the file that was meant."""
    log = log_of(place / "a.log.1")
    survey = await rotate.survey()
    with log.open("ab") as again:
        again.write(b"more\n")
    assert await rotate.perform(survey) == "compressed 0 files, freed 0 B"
    assert names(place) == {"a.log.1"}


async def test_no_link_leads_to_another_file(rotate: Any, place: Path) -> None:
    """Neither an original nor a half-written file that is a link is followed."""
    victim = log_of(place.with_name("victim"))
    (place / "b.log.1").symlink_to(victim)
    log_of(place / "a.log.1")
    (place / ".a.log.1.gz.partial").symlink_to(victim)
    await rotate.perform(await rotate.survey())
    assert names(place) == {"a.log.1.gz", "b.log.1"}
    assert victim.read_bytes() == LINES
