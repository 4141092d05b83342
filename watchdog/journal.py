"""How the agent's own log looks: for a terminal, for a file, for a machine, for the journal."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Literal

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class TextFormatter(logging.Formatter):
    """`12:34:56 WARNING proxywatch.incident: …`, one line a record, a traceback below it if there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(name)s: %(message)s", "%H:%M:%S")


class JournalFormatter(logging.Formatter):
    """`<priority>message` as sd-daemon(3) reads it from standard error; the journal adds time and unit itself."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\n", "\\n")
        return f"<{_PRIORITY.get(record.levelno, 6)}>{record.name}: {text}"


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
    """Sends everything to standard error. `auto`: the journal's form when systemd connected it to the journal."""
    if format_ == "auto":
        format_ = "journal" if os.environ.get("JOURNAL_STREAM") and not sys.stderr.isatty() else "text"
    formatter = {"text": TextFormatter, "json": JsonFormatter, "journal": JournalFormatter}[format_]()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "asyncio", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
