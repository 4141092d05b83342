"""Evidence of the machine: who uses it, who waits for what, what fills its disks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil

from watchdog.actions import ActionContext
from watchdog.system.disk_usage import disk_usage as usage_of
from watchdog.units import format_bytes

TOP_PROCESSES = 8
DISK_SECONDS = 2.0
CPU_SECONDS = 0.5


async def top_processes(_context: ActionContext) -> str:
    """The processes that use most CPU, over half a second, and those that hold most memory: by the program's name only,
    for arguments may be secret."""
    before = await asyncio.to_thread(_cpu_seconds)
    began = time.monotonic()
    await asyncio.sleep(CPU_SECONDS)
    busy, large = await asyncio.to_thread(_ranked, before, began)
    first = [f"most CPU {busy[0].split()[-1]} ({busy[0].split()[0]})"] if busy else ["nothing uses CPU"]
    first += [f"most memory {large[0].split()[-1]} ({' '.join(large[0].split()[:2])})"] if large else []
    return "\n".join([", ".join(first), "by CPU:", *busy, "by memory:", *large])


async def pressure(_context: ActionContext) -> str:
    """Pressure stall information and load: who waits for what."""
    lines = [f"load {' '.join(f'{x:.2f}' for x in psutil.getloadavg())}"]
    for resource in ("cpu", "memory", "io"):
        path = Path("/proc/pressure") / resource
        if path.exists():
            lines.append(f"{resource}: {(await asyncio.to_thread(path.read_text)).splitlines()[0]}")
    return "\n".join(lines)


async def disk_usage(context: ActionContext) -> str:
    """What uses the target's filesystem: directories, files, and deleted files that are still open."""
    found = await asyncio.to_thread(usage_of, context.label("mountpoint"), DISK_SECONDS)
    parts = (
        ("directories, with all below", [f"{format_bytes(size):>10}  {path!r}" for size, path in found.directories]),
        ("files", [f"{format_bytes(size):>10}  {path!r}" for size, path in found.files]),
        ("deleted but still open", [f"{format_bytes(size):>10}  {name!r}" for size, name in found.deleted]),
        ("entries directly in", [f"{count:>10}  {path!r}" for count, path in found.crowded]),
    )
    largest = found.directories[1:2] or found.directories
    first = f"{format_bytes(largest[0][0])} below {largest[0][1]!r}" if largest else "nothing that we may read"
    seen = f"{first}; {found.looked_at} entries looked at" + ("" if found.complete else ", not all: the time was up")
    return "\n".join([seen, *(f"{title}:\n" + "\n".join(lines) for title, lines in parts if lines)])


def _cpu_seconds() -> dict[tuple[int, float], float]:
    found = {}
    for process in psutil.process_iter(["pid", "create_time", "cpu_times"]):
        times = process.info["cpu_times"]
        if times is not None:
            found[process.info["pid"], process.info["create_time"]] = times.user + times.system
    return found


def _ranked(before: dict[tuple[int, float], float], began: float) -> tuple[list[str], list[str]]:
    """Lines by CPU since `began`, and by memory."""
    busy: list[tuple[float, int, str]] = []
    large: list[tuple[int, int, str]] = []
    passed = time.monotonic() - began
    for process in psutil.process_iter(["pid", "name", "create_time", "cpu_times", "memory_info"]):
        info = process.info
        pid, name = info["pid"], info["name"] or "?"
        if info["memory_info"] is not None:
            large.append((info["memory_info"].rss, pid, name))
        if info["cpu_times"] is not None:
            used = info["cpu_times"].user + info["cpu_times"].system - before.get((pid, info["create_time"]), 0.0)
            if used > 0:
                busy.append((used / passed, pid, name))
    return (
        [f"{share:>10.0%}  {pid:>7}  {name}" for share, pid, name in sorted(busy, reverse=True)[:TOP_PROCESSES]],
        [
            f"{format_bytes(rss):>10}  {pid:>7}  {name}"
            for rss, pid, name in sorted(large, reverse=True)[:TOP_PROCESSES]
        ],
    )
