"""The control group whose memory limit a process lives under, of either version, and what the kernel killed in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from watchdog.system.kernel_files import read_small

_V2, _V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
_UNLIMITED = 1 << 60
"""Version 1 tells «no limit» as a number near the largest."""
_UNITS = (".service", ".scope", ".slice")


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """Bytes; None where there is no limit or the kernel tells no figure. `oom_kills` counts since the group was made,
    which for a unit is its last start."""

    path: str
    oom_kills: int
    used: int | None
    limit: int | None
    peak: int | None

    @property
    def unit(self) -> str:
        """The unit whose group it is, or the group's path where it is no unit's."""
        parts = [part for part in self.path.split("/") if part.endswith(_UNITS)]
        return parts[-1] if parts else self.path


def memory_group(pid: int, *, proc: Path = Path("/proc"), v2: Path = _V2, v1: Path = _V1) -> MemoryGroup | None:
    """The nearest group above the process that accounts for memory; None where none does. Raises OSError when the
    process has gone. `proc`, `v2` and `v1` are seams."""
    for line in read_small(str(proc / str(pid) / "cgroup")).decode().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            found = _version_1(v1, path)
        elif controllers == "":
            found = _version_2(v2, path)
        else:
            continue
        if found is not None:
            return found
    return None


def unit_group(path: str, *, v2: Path = _V2, v1: Path = _V1) -> MemoryGroup | None:
    """The group at a path such as systemd tells as `ControlGroup`; None where nothing accounts for its memory."""
    return _version_2(v2, path) or _version_1(v1, path) if path.startswith("/") else None


def _version_2(root: Path, path: str) -> MemoryGroup | None:
    directory = root / path.lstrip("/")
    kills = _count(directory / "memory.events", "oom_kill")
    if kills is None:
        return None
    return MemoryGroup(
        path,
        kills,
        _bytes(directory / "memory.current"),
        _bytes(directory / "memory.max"),
        _bytes(directory / "memory.peak"),
    )


def _version_1(root: Path, path: str) -> MemoryGroup | None:
    directory = root / path.lstrip("/")
    kills = _count(directory / "memory.oom_control", "oom_kill")
    if kills is None:
        return None
    return MemoryGroup(
        path,
        kills,
        _bytes(directory / "memory.usage_in_bytes"),
        _bytes(directory / "memory.limit_in_bytes"),
        _bytes(directory / "memory.max_usage_in_bytes"),
    )


def _count(file: Path, name: str) -> int | None:
    text = _text(file)
    counts = dict(line.split(None, 1) for line in text.splitlines() if " " in line)
    return int(counts[name]) if counts.get(name, "").strip().isdecimal() else None


def _bytes(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdecimal() and int(text) < _UNLIMITED else None


def _text(file: Path) -> str:
    try:
        return read_small(str(file)).decode()
    except OSError:
        return ""
