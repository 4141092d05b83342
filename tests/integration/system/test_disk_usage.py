"""What uses the space of a filesystem, on a small one of the test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchdog.system.disk_usage import disk_usage

KIB = 1024
IS_ROOT = pytest.mark.skipif(os.geteuid() != 0 and os.environ.get("CI") != "true", reason="mounting needs root")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=8m", "none", place), check=True)
    try:
        yield place
    finally:
        subprocess.run(("umount", place), check=True)


def filled(file: Path, kibibytes: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(kibibytes * KIB))
    return file


@IS_ROOT
def test_the_largest_come_first_and_nothing_is_counted_twice_or_from_elsewhere(mounted: Path, tmp_path: Path) -> None:
    """Directories with all that is below, however deep; hard links once; links and other filesystems not at all."""
    filled(mounted / "logs" / "big.log", 800)
    filled(mounted / "a" / "b" / "c" / "d" / "e" / "deep", 400)
    os.link(mounted / "logs" / "big.log", mounted / "logs" / "again.log")
    (mounted / "away").symlink_to(tmp_path)
    filled(tmp_path / "elsewhere", 4000)
    (mounted / "other").mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=8m", "none", mounted / "other"), check=True)
    try:
        filled(mounted / "other" / "large", 4000)
        found = disk_usage(str(mounted), 20)
    finally:
        subprocess.run(("umount", mounted / "other"), check=True)
    sizes = {path.removeprefix(str(mounted)): size // KIB for size, path in found.directories}
    assert sizes == {"": 1200, "/logs": 800, "/a": 400, "/a/b": 400, "/a/b/c": 400}
    assert [size // KIB for size, _ in found.files[:2]] == [800, 400]
    assert found.complete


@IS_ROOT
def test_what_was_deleted_and_is_still_open_is_named(mounted: Path) -> None:
    """With the process that holds it; closed, it is gone."""
    with filled(mounted / "gone.log", 300).open() as held:
        (mounted / "gone.log").unlink()
        ((size, told),) = disk_usage(str(mounted), 20).deleted
        assert size == 300 * KIB
        assert f"pid {os.getpid()} " in told
        assert told.endswith(f"{mounted}/gone.log")
        assert not held.closed
    assert disk_usage(str(mounted), 20).deleted == ()


@IS_ROOT
def test_where_a_great_many_small_files_are_is_told(mounted: Path) -> None:
    """By the number of entries, which is what inodes are spent on."""
    for number in range(60):
        filled(mounted / "spool" / str(number), 0)
    assert disk_usage(str(mounted), 20).crowded[0] == (60, str(mounted / "spool"))


def test_the_time_is_kept(tmp_path: Path) -> None:
    """Without time it says at once that it has not seen all."""
    filled(tmp_path / "a" / "b", 4)
    assert not disk_usage(str(tmp_path), -1).complete
