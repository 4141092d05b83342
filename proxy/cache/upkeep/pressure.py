"""How short of memory the machine is, or the cgroup in which the service runs, whichever is worse."""

from __future__ import annotations

from pathlib import Path

_UNLIMITED_BYTES = 2**60
"""Version 1 of cgroups writes a number above this for no limit."""


def memory_percent(root: Path = Path("/")) -> float:
    """Per cent in use. The machine's is what is not MemAvailable (proc(5), meminfo); the cgroup's leaves out what the
    kernel could drop at once, its inactive file pages (cgroup v2: memory.max; v1: memory.limit_in_bytes). A figure that
    cannot be read counts as 0."""
    return max(_machine(root / "proc/meminfo"), _cgroup(root))


def _machine(meminfo: Path) -> float:
    rows = _rows(meminfo, ":")
    total, available = rows.get("MemTotal", 0), rows.get("MemAvailable", 0)
    return 100.0 * (1 - available / total) if total else 0.0


def _cgroup(root: Path) -> float:
    worst = 0.0
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        place = path.lstrip("/")
        if number == "0" and not controllers:
            folder, limit, current, inactive = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            folder, limit = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            current, inactive = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        at = folder / place if place and (folder / place / limit).exists() else folder
        most = _number(at / limit)
        if 0 < most < _UNLIMITED_BYTES:
            used = _number(at / current) - _rows(at / "memory.stat", " ").get(inactive, 0)
            worst = max(worst, 100.0 * max(0, used) / most)
    return worst


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else 0


def _rows(path: Path, separator: str) -> dict[str, int]:
    rows = {}
    for line in _lines(path):
        name, _, rest = line.partition(separator)
        words = rest.split()
        if words and words[0].isdigit():
            rows[name] = int(words[0])
    return rows
