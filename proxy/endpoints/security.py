"""What is known of attempts to get in: `/metrics/security`, for admins, because it names keys and addresses."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from proxy import metrics
from proxy.endpoints.route import Route, Services
from proxy.exchange import GatewayReply, Request, document

_TAIL_BYTES = 128 * 1024
_SHOWN = 20
_FAILURES = ("failed_auth", "forbidden")
_TOLD = ("timestamp", "event", "reason", "source", "path", "request_id", "key_id")


def routes(services: Services) -> list[Route]:
    """Figures of the whole service, since its counters began."""
    log = services.settings.log
    security_log = log.file.with_name("security.log") if log.file is not None and log.format == "json" else None

    async def figures(_request: Request) -> GatewayReply:
        families = metrics.read(services.metrics_dir)
        failures = _counts(families, "auth_failures_total", 0)
        limited = _counts(families, "rate_limited_total", 0)
        return document(
            {
                "failed_auth_attempts": sum(failures.values()) - failures["forbidden"],
                "failed_auth_by_reason": failures,
                "data_access": {
                    "total": sum(_counts(families, "admin_calls_total", 0).values()),
                    "by_route": _counts(families, "admin_calls_total", 0),
                    "by_caller": _counts(families, "admin_calls_total", 1),
                },
                "rate_limited": {"total": sum(limited.values()), "by_type": limited},
                "last_failures": None if security_log is None else last_failures(security_log),
            }
        )

    return [Route("GET", "/metrics/security", figures, "admin")]


def last_failures(security_log: Path) -> list[dict[str, Any]]:
    """The newest failures in the end of the security log, newest first; of the present file only."""
    try:
        with security_log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    found: list[dict[str, Any]] = []
    for line in reversed(lines):
        event = _event(line)
        if event.get("event") in _FAILURES:
            found.append({name: event.get(name) for name in _TOLD})
            if len(found) == _SHOWN:
                break
    return found


def _event(line: bytes) -> dict[str, Any]:
    """One line; empty for one that was cut by our look at the end only, or by a full disk."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _counts(families: metrics.Families, name: str, label: int) -> Counter[str]:
    """A counter's sums by one of its labels."""
    counts: Counter[str] = Counter()
    family = families.get(name)
    for values, cells in (family.series if family is not None else {}).items():
        counts[values[label]] += int(cells[0])
    return counts
