"""The space laid aside for the store, on a small disk of the test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchdog.store.reserve import RESERVE_BYTES, Reserve

DISK = pytest.mark.skipif(os.geteuid() != 0 and os.environ.get("CI") != "true", reason="mounting needs root")
MIB = 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=24m", "none", place), check=True)
    try:
        yield place
    finally:
        subprocess.run(("umount", place), check=True)


@DISK
def test_it_is_given_up_on_a_full_disk_and_laid_aside_when_there_is_plenty(disk: Path) -> None:
    """Real blocks, once; kept while there is little room, given up when there is none, and not taken at once again."""
    reserve, file = Reserve(disk), disk / "reserve"
    assert [reserve.keep(), reserve.keep()] == ["", ""]
    assert file.stat().st_blocks * 512 == RESERVE_BYTES
    hoard = disk / "hoard"
    hoard.write_bytes(bytes(18 * MIB))
    assert reserve.keep() == ""
    hoard.write_bytes(bytes(20 * MIB - 4096))
    assert "the disk is full" in reserve.keep()
    assert not file.exists()
    assert reserve.keep() == ""
    assert not file.exists()
    hoard.unlink()
    assert reserve.keep() == ""
    assert [path.name for path in disk.iterdir()] == ["reserve"]
