"""One append-only log file that several processes share: gathers lines, writes them whole, follows and starts rotation.

Lines are gathered for at most 0.2 s, or 4 KiB, and are written in one `write`, so that workers share a file. An urgent
one is written at once, with all before it. So a process that is killed loses at most 0.2 s of its other lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

from proxy.clock import Clock
from proxy.logs import rotation

_LOOK_SECONDS = 1.0
_GATHER_SECONDS = 0.2
_GATHER_BYTES = 4096
"""A write of no more is whole on a pipe too (pipe(7), PIPE_BUF), however many workers share it."""
_MIB = 1024 * 1024


class LogFile:
    """Lines on their way into `path`, or to a descriptor that somebody else opened.

    A disk that is full, or any other fault of writing, costs lines and never a request: they are counted in `lost`,
    and when writing works again a line tells how many, made by `tell_lost` from their number and the fault.
    """

    def __init__(
        self,
        path: Path | None,
        fallback_fd: int,
        clock: Clock,
        tell_lost: Callable[[int, str], bytes],
        rotate_mb: float = 0.0,
        keep: int = 1,
    ) -> None:
        """OSError if `path` cannot be opened. With `rotate_mb` 0 the file is left to others to rotate."""
        self.path = path
        self.lost = 0
        self._clock = clock
        self._tell_lost = tell_lost
        self._rotate_bytes = int(rotate_mb * _MIB)
        self._keep = keep
        self._looked = clock.monotonic()
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._flush_due = False
        self._untold, self._fault = 0, ""
        self._torn = False
        self._fd = fallback_fd
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = _open(path)

    def write(self, line: bytes, *, urgent: bool) -> None:
        """Takes one line, which ends in a line feed."""
        if self._gathered_bytes + len(line) > _GATHER_BYTES:
            self.flush()
        self._gathered.append(line)
        self._gathered_bytes += len(line)
        if urgent or not self._will_flush():
            self.flush()

    def flush(self) -> None:
        """Writes what is gathered, now."""
        lines, self._gathered, self._gathered_bytes = self._gathered, [], 0
        if not lines:
            return
        if self.path is not None:
            self._look(self.path)
        note = self._tell_lost(self._untold, self._fault) if self._untold else b""
        data = b"".join([b"\n" if self._torn else b"", note, *lines])
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            self._lose(len(lines), error.strerror or str(error))
            return
        told = data[:written]
        self._torn = not told.endswith(b"\n")
        if note and len(told) >= len(note) + (data[:1] == b"\n"):
            self._untold = 0
        if written < len(data):
            self._lose(min(len(lines), data[written:].count(b"\n")), "the write was cut short")

    def look(self) -> None:
        """Follows or starts a rotation though nothing is to be written, so that nobody holds on to a file that has
        gone. To be called about every second."""
        if self.path is not None:
            self._look(self.path)

    def reopen(self) -> None:
        """Writes what is gathered to where it was going, and opens the path anew; for who has moved the file away."""
        self.flush()
        if self.path is not None:
            self._open_anew(self.path)

    def close(self) -> None:
        """Writes what is gathered, and closes the file if it was ours."""
        self.flush()
        if self.path is not None:
            os.close(self._fd)

    def _lose(self, lines: int, fault: str) -> None:
        self.lost += lines
        self._untold += lines
        self._fault = fault

    def _will_flush(self) -> bool:
        """Whether a flush is to come by itself, which takes a running event loop."""
        if not self._flush_due:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return False
            loop.call_later(_GATHER_SECONDS, self._due)
            self._flush_due = True
        return True

    def _due(self) -> None:
        self._flush_due = False
        self.flush()

    def _look(self, path: Path) -> None:
        """Once a second: is the file still where it was, and not too large?"""
        now = self._clock.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        ours = os.fstat(self._fd)
        try:
            there = path.stat()
        except FileNotFoundError:
            there = None
        except OSError:
            return
        if there is None or (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
            self._open_anew(path)
        elif 0 < self._rotate_bytes <= ours.st_size and rotation.rotate(path, self._fd, self._clock.wall()):
            self._open_anew(path)
            self._tidy_later(path)

    def _open_anew(self, path: Path) -> None:
        """The old file is kept when a new one cannot be had: a line in the wrong file is better than none."""
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = _open(path)
            os.close(self._fd)
            self._fd = fresh

    def _tidy_later(self, path: Path) -> None:
        """In a thread of its own, of the lowest priority, when nobody writes to what was rotated any more."""

        def begin() -> None:
            threading.Thread(
                target=rotation.tidy, args=(path, self._keep, self._clock), name="log-tidy", daemon=True
            ).start()

        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().call_later(rotation.SETTLED_SECONDS + _LOOK_SECONDS, begin)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
