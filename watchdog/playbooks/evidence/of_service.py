"""Evidence of a watched service: what its controller knows, and its last words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from watchdog.actions import ActionContext
from watchdog.errors import ActionError
from watchdog.system.command import run_command
from watchdog.system.services.unit import UnitService
from watchdog.system.tail import tail
from watchdog.units import format_bytes, format_duration

LOG_LINES = 20
_READ_LINES = 2_000
_READ_BYTES = 512 * 1024
JOURNAL_LINES = 40
JOURNAL_SECONDS = 2.5
_UNKNOWN = 2**64 - 1
"""How D-Bus tells infinity, and what is not counted."""


async def service_status(context: ActionContext) -> str:
    """What the service's controller knows; of a unit its properties that help to understand."""
    service = context.service
    status = await service.status()
    pid = f", pid {status.identity.pid}" if status.identity else ""
    lines = [f"{status.state}{pid}" + (f": {status.note}" if status.note else "")]
    if isinstance(service, UnitService):
        lines += shown_properties(await service.properties())
    return "\n".join(lines)


async def service_log(context: ActionContext) -> str:
    """The last lines of the service's own output and log files; of a unit the end of its journal before them."""
    name = context.label("service")
    parts = []
    service = context.services.get(name)
    if isinstance(service, UnitService):
        parts.append(await journal_tail(service.unit))
    files = await asyncio.to_thread(_last_lines, context.log_dir, name)
    parts += files or ([] if parts else [f"no log of {name} under {context.log_dir}"])
    return "\n".join(parts)


async def journal_tail(unit: str, *how: str) -> str:
    """The last lines of a unit's journal; `how` are more arguments of journalctl. That it could not be read is told."""
    wanted = ("--unit", unit, "--lines", str(JOURNAL_LINES), "--output", "short-iso", "--no-hostname", "--quiet")
    try:
        result = await run_command(("journalctl", "--no-pager", *how, *wanted), timeout=JOURNAL_SECONDS)
    except ActionError as error:
        return f"the journal of {unit} could not be read: {error}"
    if result.status:
        return f"the journal of {unit} could not be read: {result.tail}"
    return f"journal of {unit}:\n{result.output.rstrip() or 'nothing'}"


def shown_properties(known: Mapping[str, Any]) -> list[str]:
    """Properties as D-Bus gives them, as lines for people; what is unset or without limit is left out."""
    lines = []
    for name, shown in _PROPERTIES.items():
        value = known.get(name)
        if value not in (None, "", 0, _UNKNOWN, [], ()):
            lines.append(f"{name}: {shown(value)}")
    return lines


def _moment(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _listed(paths: list[str]) -> str:
    return ", ".join(map(str, paths))


_PROPERTIES: Mapping[str, Callable[[Any], str]] = {
    "SubState": str,
    "Result": str,
    "NRestarts": str,
    "ExecMainStatus": str,
    "StatusText": str,
    "InactiveExitTimestamp": _moment,
    "ActiveEnterTimestamp": _moment,
    "ExecMainExitTimestamp": _moment,
    "MemoryCurrent": format_bytes,
    "MemoryPeak": format_bytes,
    "MemoryMax": format_bytes,
    "TasksCurrent": str,
    "TasksMax": str,
    "CPUUsageNSec": lambda value: f"{format_duration(value / 1e9)} of CPU",
    "NeedDaemonReload": lambda value: "its file has changed since systemd read it" if value else "no",
    "FragmentPath": str,
    "DropInPaths": _listed,
}
"""Of `org.freedesktop.systemd1.Unit` and `.Service`; never Environment or ExecStart, which may hold secrets."""


def _last_lines(logs: Path, service: str) -> list[str]:
    """By file, what the service wrote itself at last: there stands why it ended."""
    files = sorted(log_files(logs, service), key=lambda path: (path.stem == service, path.name))
    found = []
    for path in files:
        lines = [shown for line in tail(path, _READ_LINES, _READ_BYTES) if (shown := _shown(line))]
        if lines:
            found.append(f"{path.name}:\n" + "\n".join(lines[-LOG_LINES:]))
    return found


def log_files(logs: Path, service: str) -> list[Path]:
    """The logs of a service below the directory of all logs."""
    return sorted(path for path in logs.rglob("*.log") if service in path.name or service in path.parent.name)


def _shown(line: str) -> str:
    """A line of JSON as people read one; requests are left out, for they are evidence of their own."""
    if not line.startswith("{"):
        return line.rstrip()
    try:
        entry = json.loads(line)
    except ValueError:
        return line.rstrip()
    if entry.get("message") == "request":
        return ""
    first = (clock_time(str(entry.pop("timestamp", ""))), str(entry.pop("level", "")), str(entry.pop("message", "")))
    more = [f"{name}={value}" for name, value in entry.items() if value not in (None, "")]
    return " ".join([*filter(None, first), *more])


def clock_time(timestamp: str) -> str:
    """The time of day here of an ISO timestamp, as in everything else of an incident's story."""
    try:
        return datetime.fromisoformat(timestamp).astimezone().strftime("%H:%M:%S.%f")[:12]
    except ValueError:
        return timestamp[:24]
