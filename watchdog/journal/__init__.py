"""How the agent's own log looks: for a terminal, for a file, for a machine, for the journal."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Literal

from watchdog.journal.native import PRIORITY, SOCKET, NativeHandler


class TextFormatter(logging.Formatter):
    """`12:34:56 WARNING proxywatch.incident: …`, one line a record, a traceback below it if there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(name)s: %(message)s", "%H:%M:%S")


class JournalFormatter(logging.Formatter):
    """`<priority>message` as sd-daemon(3) reads it from standard error; the journal adds time and unit itself."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\n", "\\n")
        return f"<{PRIORITY.get(record.levelno, 6)}>{record.name}: {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line with `timestamp, level, logger, message` and the incident where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "timestamp": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        incident = getattr(record, "incident", None)
        if incident is not None:
            entry["incident"] = incident
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def setup_logging(level: str, format_: Literal["auto", "text", "json", "journal"]) -> None:
    """Where the log goes. `journal`: to the journal with fields of its own, or where that does not listen to standard
    error with priorities as sd-daemon(3) reads them; everything else to standard error. `auto`: the journal when
    systemd connected our standard error to it."""
    if format_ == "auto":
        format_ = "journal" if _to_journal(sys.stderr.fileno()) else "text"
    formatter: logging.Formatter
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    match format_:
        case "journal" if SOCKET.is_socket():
            handler, formatter = NativeHandler(), logging.Formatter("%(message)s")
        case "journal":
            formatter = JournalFormatter()
        case "json":
            formatter = JsonFormatter()
        case _:
            formatter = TextFormatter()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _to_journal(descriptor: int) -> bool:
    """Whether the stream is the one that systemd connected to the journal: the variable alone is inherited by children
    whose output goes elsewhere."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))
