"""Who writes what into which log: levels, the fields of every line, and what libraries say through `logging`.

Whatever goes through the logger `proxy.security` (with `extra={"event": …, "success": …, "key_id": …, "source": …}`)
is a security event: it is in `security.log` whatever the level says, and from `warning` up in `llm_proxy.log` too.
"""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime
from typing import Any

from proxy.clock import Clock
from proxy.logs import lines
from proxy.logs.file import LogFile
from proxy.settings import Log

SECURITY = "proxy.security"
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_SHOWN = {level: level.upper() for level in _LEVELS}
_WARNING = _LEVELS["warning"]
_FRACTIONS = tuple(f".{millisecond:03d}Z" for millisecond in range(1001))
_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogWriter:
    """Writes lines at or above the configured level."""

    def __init__(self, settings: Log, clock: Clock, fallback_fd: int) -> None:
        """`fallback_fd` takes the lines when no file is configured. OSError if a file cannot be opened."""
        self._clock = clock
        self._json = settings.format == "json"
        self._threshold = _LEVELS[settings.level]
        self._second, self._second_text = -1, ""
        rotation = (settings.rotate_mb, settings.keep)
        self._main = LogFile(settings.file, fallback_fd, clock, self._lost_line, *rotation)
        self._security: LogFile | None = None
        if settings.file is not None:
            beside = settings.file.with_name("security.log")
            self._security = LogFile(beside, fallback_fd, clock, self._lost_line, *rotation)

    @property
    def lost(self) -> int:
        """Lines that a full disk, or another fault of writing, has cost so far."""
        return self._main.lost + (self._security.lost if self._security is not None else 0)

    def write(self, level: str, message: str, **fields: Any) -> None:
        """One line. Urgent from `warning` up."""
        self.tell(level, message, fields)

    def tell(self, level: str, message: str, fields: dict[str, Any]) -> None:
        """`write`, for who has the fields at hand."""
        rank = _LEVELS[level]
        if rank >= self._threshold:
            self._main.write(self._line(level, message, fields), urgent=rank >= _WARNING)

    def security(self, level: str, message: str, **fields: Any) -> None:
        """One security event."""
        rank = _LEVELS[level]
        line = self._line(level, message, {"logger": "security", **fields}, spaced=True)
        if self._security is not None:
            self._security.write(line, urgent=rank >= _WARNING)
        if rank >= (self._threshold if self._security is None else max(self._threshold, _WARNING)):
            self._main.write(line, urgent=rank >= _WARNING)

    def flush(self) -> None:
        """Writes what is gathered, now."""
        for file in self._files():
            file.flush()

    def look(self) -> None:
        """Follows rotation though nothing is to be written; to be called about every second."""
        for file in self._files():
            file.look()

    def reopen(self) -> None:
        """Opens the files anew; for who has moved them away."""
        for file in self._files():
            file.reopen()

    def close(self) -> None:
        """Writes what is gathered, and closes the files that are ours."""
        for file in self._files():
            file.close()

    def _files(self) -> list[LogFile]:
        return [self._main] if self._security is None else [self._main, self._security]

    def _line(self, level: str, message: str, fields: dict[str, Any], *, spaced: bool = False) -> bytes:
        stamp, shown = self._stamp(self._clock.wall()), _SHOWN[level]
        if not self._json:
            return lines.text(stamp, shown, message, fields)
        whole = {"timestamp": stamp, "level": shown, "message": message, **fields}
        return lines.spaced(whole) if spaced else lines.compact(whole)

    def _lost_line(self, number: int, fault: str) -> bytes:
        return self._line("warning", "lines of this log were lost", {"lines": number, "fault": fault})

    def _stamp(self, now: float) -> str:
        """UTC to the millisecond; the text of the whole second is kept, for many lines share it."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return self._second_text + _FRACTIONS[int((now - second) * 1000)]


class _Bridge(logging.Handler):
    """Brings what libraries and the proxy's own modules say through `logging` into the logs."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= 40 else "warning" if record.levelno >= 30 else "info"
        level = "debug" if record.levelno < 20 else level
        fields = {name: value for name, value in vars(record).items() if name not in _OWN_FIELDS}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        if record.name == SECURITY:
            self._writer.security(level, record.getMessage(), **fields)
        else:
            self._writer.write(level, record.getMessage(), logger=record.name, **fields)


def bridge_logging(writer: LogWriter, settings: Log) -> None:
    """Sends the root logger's records to `writer`; libraries are heard from `warning` up, security events always."""
    root = logging.getLogger()
    root.handlers[:] = [_Bridge(writer)]
    root.setLevel(logging.WARNING)
    logging.getLogger("proxy").setLevel(_LEVELS[settings.level])
    logging.getLogger(SECURITY).setLevel(logging.INFO)
