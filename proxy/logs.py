"""The structured log: one line per event, as JSON or text, written straight to an append-only descriptor.

Lines are gathered for at most 0.2 s, or 4 KiB, and are written whole in one `write`, so that workers share a file; one
from `warning` up is written at once, with all before it. So a process that is killed loses at most 0.2 s of its lines
below `warning`. A file that was renamed by rotation is noticed and made anew. Secrets and bodies never come here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from proxy.clock import Clock
from proxy.settings import Log

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_WARNING = _LEVELS["warning"]
_ROTATION_CHECK_SECONDS = 1.0
_GATHER_SECONDS = 0.2
_GATHER_BYTES = 4096
"""A write of no more is whole on a pipe too (pipe(7), PIPE_BUF), however many workers share it."""


class LogWriter:
    """Writes lines at or above the configured level."""

    def __init__(self, settings: Log, clock: Clock, fallback_fd: int) -> None:
        """`fallback_fd` takes the lines when no file is configured. OSError if the file cannot be opened."""
        self._clock = clock
        self._json = settings.format == "json"
        self._path = settings.file
        self._fd = fallback_fd
        self._checked = clock.monotonic()
        self._threshold = _LEVELS[settings.level]
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._flush_due = False
        self._second, self._second_text = -1, ""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = _open(self._path)

    def write(self, level: str, message: str, **fields: Any) -> None:
        """One line. A disk that is full costs the line, never the request."""
        rank = _LEVELS[level]
        if rank < self._threshold:
            return
        stamp = self._stamp(self._clock.wall())
        if self._json:
            line = orjson.dumps(
                {"timestamp": stamp, "level": level, "message": message, **fields},
                default=str,
                option=orjson.OPT_APPEND_NEWLINE,
            )
        else:
            tail = "".join(f" {name}={value}" for name, value in fields.items())
            line = f"{stamp} {level.upper():7} {message}{tail}\n".encode("utf-8", "replace")
        if self._gathered_bytes + len(line) > _GATHER_BYTES:
            self.flush()
        self._gathered.append(line)
        self._gathered_bytes += len(line)
        if rank >= _WARNING or not self._will_flush():
            self.flush()

    def flush(self) -> None:
        """Writes what is gathered, now."""
        lines, self._gathered, self._gathered_bytes = self._gathered, [], 0
        if not lines:
            return
        if self._path is not None:
            self._follow_rotation(self._path)
        try:
            os.write(self._fd, b"".join(lines))
        except OSError:
            return

    def close(self) -> None:
        """Writes what is gathered, and closes the file if it was ours."""
        self.flush()
        if self._path is not None:
            os.close(self._fd)

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

    def _stamp(self, now: float) -> str:
        """UTC to the millisecond; the text of the whole second is kept, for many lines share it."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{int((now - second) * 1000):03d}Z"

    def _follow_rotation(self, path: Path) -> None:
        now = self._clock.monotonic()
        if now - self._checked < _ROTATION_CHECK_SECONDS:
            return
        self._checked = now
        try:
            ours, there = os.fstat(self._fd), path.stat()
            if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):
                return
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
        fresh = _open(path)
        os.close(self._fd)
        self._fd = fresh


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


class _Bridge(logging.Handler):
    """Brings what libraries and the gateway say through `logging` into the same log."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= 40 else "warning" if record.levelno >= 30 else "info"
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        self._writer.write("debug" if record.levelno < 20 else level, record.getMessage(), **fields)


def bridge_logging(writer: LogWriter, settings: Log) -> None:
    """Sends the root logger's records to `writer`; libraries are heard from `warning` up."""
    root = logging.getLogger()
    root.handlers[:] = [_Bridge(writer)]
    root.setLevel(logging.WARNING)
    logging.getLogger("proxy").setLevel(_LEVELS[settings.level])
