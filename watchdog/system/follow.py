"""Follows one log file from look to look: over rotation (the rest of the old file first) and truncation, line by line.

What strangers write into it costs bounded time and memory: at most 4 MiB a look, and of each line its first 4096 bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LONGEST_LINE = 4096
_MOST_BYTES_A_LOOK = 4 * 1024 * 1024


@dataclass(slots=True)
class _Open:
    """The file as it is being read. `partial` is a line whose end has not been written yet."""

    descriptor: int
    identity: tuple[int, int]
    position: int
    partial: bytes = b""
    overlong: bool = False


class Follower:
    """Not for two threads at once. `close` lets the file go."""

    def __init__(self, path: Path, take: Callable[[bytes, bool], None], backlog: int = 0) -> None:
        """`take` gets each line without its end, and whether it was cut; empty lines are left out. Of what stands in
        the file at the first look about the last `backlog` bytes are read, from the beginning of a line."""
        self._path = path
        self._take = take
        self._backlog = backlog
        self._open: _Open | None = None
        self._begun = False
        self.bytes = 0
        """So many were read."""

    def look(self) -> None:
        """Reads what has been written since the last look. Raises OSError; then the file is let go, so that another one
        in its place is opened."""
        try:
            self._follow()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of the file; a later look begins with the file that is there then."""
        if self._open is not None:
            os.close(self._open.descriptor)
            self._open = None

    def _follow(self) -> None:
        """The name may lead to another file by now."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            status = None
        if self._open is not None:
            whole = self._read(self._open)
            same = status is not None and (status.st_dev, status.st_ino) == self._open.identity
            # Moved away without a successor: who writes may still write into it.
            if same or status is None or not whole:
                return
            self._finish_line(self._open)
            self.close()
        if status is None:
            self._begun = True
            return
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        opened = os.fstat(descriptor)
        # What stood in the file when we came is old; a file that came after us is new from its beginning.
        start = 0 if self._begun else max(0, opened.st_size - self._backlog)
        self._open = _Open(descriptor, (opened.st_dev, opened.st_ino), start)
        if start and not self._begun and self._backlog:
            self._skip_to_line(self._open)
        self._begun = True
        self._read(self._open)

    def _skip_to_line(self, file: _Open) -> None:
        """To the beginning of the first whole line; the byte before may be its predecessor's end."""
        file.position -= 1
        rest = os.pread(file.descriptor, self._backlog + 1, file.position)
        file.position += rest.find(b"\n") + 1 if b"\n" in rest else len(rest)

    def _read(self, file: _Open) -> bool:
        """Whether that was all there is."""
        if os.fstat(file.descriptor).st_size < file.position:
            file.position, file.partial, file.overlong = 0, b"", False
        left = _MOST_BYTES_A_LOOK
        while left > 0 and (chunk := os.pread(file.descriptor, 64 * 1024, file.position)):
            file.position += len(chunk)
            left -= len(chunk)
            self.bytes += len(chunk)
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                file.partial += line
                self._finish_line(file)
            file.partial += rest
            if len(file.partial) > LONGEST_LINE:
                file.partial, file.overlong = file.partial[:LONGEST_LINE], True
        return left > 0

    def _finish_line(self, file: _Open) -> None:
        raw, cut = file.partial[:LONGEST_LINE], file.overlong or len(file.partial) > LONGEST_LINE
        file.partial, file.overlong = b"", False
        if raw:
            self._take(raw, cut)
