"""Evidence of what callers met: the last requests that the proxy wrote into its log. It needs no proxy that answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from watchdog.actions import ActionContext
from watchdog.playbooks.evidence.of_service import clock_time, log_files
from watchdog.system.tail import tail

REQUESTS = 20
_LINES = 2_000
_BYTES = 512 * 1024


async def last_requests(context: ActionContext) -> str:
    """The last requests to models: when, status, time taken, provider, model. Never what was asked or answered, nor a
    key. Health checks and scrapes are left out."""
    return await asyncio.to_thread(requests_in, context.log_dir, context.label("service"))


def requests_in(logs: Path, service: str) -> str:
    """As `last_requests`, of the JSON logs of a service below a directory."""
    entries = [
        entry for path in log_files(logs, service) for line in tail(path, _LINES, _BYTES) if (entry := _request(line))
    ]
    if not entries:
        return f"no request in the logs of {service} below {logs}; the proxy writes them at log level info"
    last = sorted(entries, key=lambda entry: str(entry["timestamp"]))[-REQUESTS:]
    failed = sum(1 for entry in last if int(entry["status"]) >= 500)
    slowest = max(float(entry.get("response_time_ms") or 0) for entry in last)
    first = f"{len(last)} requests, {failed} failed, slowest {slowest:.0f} ms; the newest first"
    rows = [("time", "status", "ms", "provider", "model", "path"), *map(_row, reversed(last))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join([first, *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)])


def _request(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or entry.get("message") != "request" or "timestamp" not in entry:
        return None
    status = entry.get("status")
    return entry if isinstance(status, int) and str(entry.get("path", "")).startswith("/v1/") else None


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    taken = f"{float(entry.get('response_time_ms') or 0):.0f}"
    provider, model = str(entry.get("provider") or "-"), str(entry.get("model") or "-")
    return (
        clock_time(str(entry["timestamp"])),
        str(entry["status"]),
        taken,
        provider[:24],
        model[:40],
        str(entry.get("path", ""))[:60],
    )
