"""Rotation of a log by size: sets the full file aside, compresses what was set aside, keeps so many.

`llm_proxy.log` becomes `llm_proxy.log.20261123T034501.gz` (UTC). Names by time need no shifting of thirty files, and a
name never changes its content.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import re
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path

from proxy.clock import Clock

SETTLED_SECONDS = 5.0
"""A file that nobody has written to for so long is nobody's any more: writers look once a second where it is."""
_COMPRESSION = 6
_CHUNK_BYTES = 1024 * 1024
_LOWEST_PRIORITY = 19
_STAMP = r"\.\d{8}T\d{6}(-\d+)?"


def rotate(path: Path, fd: int, wall: float) -> bool:
    """Sets `path` aside if it is still the file that `fd` is open on, and no other process is doing so. Whether it was
    done here; the caller then opens `path` anew."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there, ours = path.stat(), os.fstat(fd)
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            return False
        path.rename(_free_name(path, wall))
    except OSError:  # another is at it, or the directory is not ours to write: the file grows on, and is tried again
        return False
    return True


def tidy(path: Path, keep: int, clock: Clock) -> None:
    """Compresses what was set aside and has settled, and removes all but the newest `keep`. One process at a time; a
    second one has nothing to do. For a thread: lowers the priority of the thread that it runs in (setpriority(2))."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # What fails here (a full disk, a directory that has gone) is tried again after the next rotation.
        with contextlib.suppress(OSError):
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for unfinished in path.parent.glob(f"{path.name}.*.gz.part"):
                unfinished.unlink()
            kept = _set_aside(path)
            for old in kept[: max(0, len(kept) - keep)]:
                old.unlink()
            for file in _set_aside(path):
                if file.suffix != ".gz" and clock.wall() - file.stat().st_mtime >= SETTLED_SECONDS:
                    _compress(file)
    finally:
        os.close(directory)


def _set_aside(path: Path) -> list[Path]:
    """What was set aside of that log, oldest first."""
    name = re.compile(re.escape(path.name) + _STAMP + r"(\.gz)?")
    return sorted(file for file in path.parent.iterdir() if name.fullmatch(file.name))


def _free_name(path: Path, wall: float) -> Path:
    stamp = datetime.fromtimestamp(wall, UTC).strftime("%Y%m%dT%H%M%S")
    name, number = path.with_name(f"{path.name}.{stamp}"), 1
    while name.exists() or name.with_name(name.name + ".gz").exists():
        number += 1
        name = path.with_name(f"{path.name}.{stamp}-{number}")
    return name


def _compress(file: Path) -> None:
    packed, part = file.with_name(file.name + ".gz"), file.with_name(file.name + ".gz.part")
    status = file.stat()
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, status.st_mode & 0o777)
    with (
        file.open("rb") as source,
        os.fdopen(descriptor, "wb") as raw,
        gzip.GzipFile(file.name, "wb", _COMPRESSION, raw, status.st_mtime) as packing,
    ):
        shutil.copyfileobj(source, packing, _CHUNK_BYTES)
    os.utime(part, (status.st_atime, status.st_mtime))
    part.rename(packed)
    file.unlink()
