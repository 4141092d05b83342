"""Rows on their way to the database, in a mapped file that outlives a killed worker; whoever finds it adopts them.

A row costs a copy into memory and no system call. The file stands in `run_dir`, is locked by its owner for as long as
that lives, and has all its blocks from the start, so that a full disk cannot break a write to it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

_SUFFIX = ".journal"


class Journal:
    """One file of `size` bytes: whole lines from the start, zeros behind them."""

    __slots__ = ("_descriptor", "_map", "_path", "_size", "_used")

    def __init__(self, directory: Path, name: str, size: int) -> None:
        """OSError if the directory cannot be written or has no room."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = directory / f"{name}{_SUFFIX}"
        self._size = size
        self._used = 0
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            _expect_linked(self._descriptor)
            os.posix_fallocate(self._descriptor, 0, size)
            self._map = mmap.mmap(self._descriptor, size)
        except BaseException:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            raise

    def append(self, line: bytes) -> bool:
        """Keeps a line; False if there is no room for it."""
        begin = self._used
        end = begin + len(line)
        if end >= self._size:
            return False
        self._map[begin:end] = line
        self._used = end
        return True

    def clear(self) -> None:
        """Forgets the lines, which are safe elsewhere."""
        self._map[: self._used] = bytes(self._used)
        self._used = 0

    def close(self, *, keep: bool) -> None:
        """Lets go of the file; unless its lines are to be adopted it goes as well."""
        self._map.close()
        if not keep:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _expect_linked(descriptor: int) -> None:
    """Between opening and locking, another worker may have taken the file for an orphan, and removed it."""
    if not os.fstat(descriptor).st_nlink:
        raise FileNotFoundError(errno.ENOENT, "another worker took the new journal for an orphan")


def orphans(directory: Path) -> Iterator[list[bytes]]:
    """The lines of each journal whose owner is dead; it is removed when the next one is asked for, and stays locked
    until then, so that no two adopt it."""
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                with open(descriptor, "rb", closefd=False) as file:
                    yield file.read().split(b"\0", 1)[0].splitlines()
                path.unlink(missing_ok=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
