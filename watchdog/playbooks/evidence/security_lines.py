"""Evidence of an attack: what the security log says of the address or the key that it is about."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from pathlib import Path
from typing import Any

from watchdog.actions import ActionContext
from watchdog.system.tail import tail

_LINES = 20_000
_BYTES = 2 * 1024 * 1024
_SHOWN = 30
_TOLD = ("timestamp", "event", "reason", "failures", "path", "key_id", "source", "request_id")


async def security_log(context: ActionContext) -> str:
    """The last lines of the service's security log about the target's address or key; keys themselves are not in it."""
    labels = {**context.labels, **context.target.labels}
    wanted = ("source", labels["source"]) if labels.get("source") else ("key_id", context.label("key"))
    return await asyncio.to_thread(_lines_about, context.log_dir, *wanted)


def _lines_about(logs: Path, field: str, value: str) -> str:
    found: list[str] = []
    count = 0
    for file in sorted(logs.rglob("security.log")):
        for line in tail(file, _LINES, _BYTES):
            event = _event(line)
            if _same(event.get(field), value):
                count += 1
                found = [*found[1 - _SHOWN :], " ".join(f"{k}={event[k]}" for k in _TOLD if event.get(k) is not None)]
    if not found:
        return f"no line about {field} {value} in any security.log below {logs}"
    return "\n".join([f"{count} lines about {field} {value}, the last {len(found)}:", *found])


def _event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _same(said: object, value: str) -> bool:
    """Whether both are the same text, or the same address in whatever clothes."""
    if said == value:
        return True
    try:
        one, other = ipaddress.ip_address(str(said).partition("%")[0]), ipaddress.ip_address(value)
    except ValueError:
        return False
    return (getattr(one, "ipv4_mapped", None) or one) == other
