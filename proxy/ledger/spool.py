"""Rows that wait on disk while the database is away: append-only files of checksummed lines, oldest first.

A file is locked by the worker that appends to it. When that worker has closed it, or is dead, whoever locks it first
replays and removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy.clock import Clock
from proxy.ledger.row import Row, packed, unpacked

_SUFFIX = ".spool"
_FILE_BYTES = 1024 * 1024
_SHARE = 8
"""A file is no larger than this part of what all may hold, so that giving up the oldest gives up little."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One file of the spool, locked until it is given to `release`."""

    path: Path
    descriptor: int
    rows: list[Row]
    torn: int


class Spool:
    """One worker's view of the directory that all workers share. For one thread at a time."""

    def __init__(self, directory: Path, owner: str, max_bytes: int, clock: Clock) -> None:
        self._directory = directory
        self._owner = owner
        self._max_bytes = max_bytes
        self._clock = clock
        self._descriptor = -1
        self._size = 0

    def append(self, rows: Iterable[Row]) -> int:
        """Puts rows at the end, all or none (OSError). Returns how many of the oldest lines had to be given up."""
        lines = b"".join(map(packed, rows))
        if self._descriptor < 0:
            self._open()
        try:
            _write_all(self._descriptor, lines)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(lines)
        if self._size >= min(_FILE_BYTES, self._max_bytes // _SHARE):
            self.seal()
        return self._make_room()

    def seal(self) -> None:
        """Ends the file that is appended to, so that anybody may replay it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def oldest(self) -> Chunk | None:
        """The oldest file that nobody holds, locked, or None."""
        self.seal()
        for path, descriptor in self._free():
            with open(descriptor, "rb", closefd=False) as file:
                rows, torn = unpacked(file.read().splitlines())
            return Chunk(path, descriptor, rows, torn)
        return None

    def release(self, chunk: Chunk, *, done: bool) -> None:
        """Removes a file whose rows are in the database, or leaves it for later."""
        if done:
            chunk.path.unlink(missing_ok=True)
        os.close(chunk.descriptor)

    def bytes_waiting(self) -> int:
        """The size of the whole spool, whoever's."""
        return sum(_size(path) for path in self._files())

    def _open(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        stamp = int(self._clock.wall() * 1e6)
        path = self._directory / f"{stamp:017d}-{self._owner}{_SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        # Between the two calls another worker may have taken the empty file for one that waits, and removed it.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not os.fstat(descriptor).st_nlink:
            os.close(descriptor)
            raise OSError(errno.EAGAIN, "the spool's new file was taken by another worker")
        self._descriptor, self._size = descriptor, os.fstat(descriptor).st_size

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob(f"*{_SUFFIX}"))

    def _free(self) -> Iterator[tuple[Path, int]]:
        """Files that nobody holds, oldest first, each with a descriptor that holds it now."""
        for path in self._files():
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            if os.fstat(descriptor).st_nlink:
                yield path, descriptor
            else:
                os.close(descriptor)

    def _make_room(self) -> int:
        lost = 0
        excess = self.bytes_waiting() - self._max_bytes
        free = self._free()
        while excess > 0 and (held := next(free, None)) is not None:
            path, descriptor = held
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read()
            path.unlink(missing_ok=True)
            os.close(descriptor)
            lost += content.count(b"\n")
            excess -= len(content)
        return lost


def _write_all(descriptor: int, lines: bytes) -> None:
    if os.write(descriptor, lines) < len(lines):
        raise OSError(errno.ENOSPC, "no room left for the spool")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
