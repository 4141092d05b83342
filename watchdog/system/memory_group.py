"""The control group whose memory limit a process lives under, of either version, what the kernel killed in it, and how
much a process may still take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from watchdog.system.kernel_files import read_small

_V2, _V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
_UNLIMITED = 1 << 60
"""Version 1 tells «no limit» as a number near the largest."""
_UNITS = (".service", ".scope", ".slice")
_KILLS = "oom_kill"


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """Bytes; None where there is no limit or the kernel tells no figure. `oom_kills` counts since the group was made,
    which for a unit is its last start."""

    path: str
    oom_kills: int
    used: int | None
    limit: int | None
    peak: int | None
    droppable: int = 0
    """What of `used` are pages of files, which the kernel drops before it kills."""

    @property
    def room(self) -> int | None:
        """Bytes until its limit; None where it has none."""
        if self.limit is None or self.used is None:
            return None
        return max(0, self.limit - self.used + self.droppable)

    @property
    def unit(self) -> str:
        """The unit whose group it is, or the group's path where it is no unit's."""
        return _unit_of(self.path)


@dataclass(frozen=True, slots=True)
class KillCount:
    """How many processes of a group the kernel has killed for want of memory; cheap enough to be read all the time."""

    file: Path
    unit: str
    kills: int

    def now(self) -> int | None:
        """The same count, read again; None when the group has gone. Needs none of its processes to live."""
        return _count(self.file, _KILLS)


def memory_group(pid: int, *, proc: Path = Path("/proc"), v2: Path = _V2, v1: Path = _V1) -> MemoryGroup | None:
    """The nearest group above the process that accounts for memory; None where none does. Raises OSError when the
    process has gone. `proc`, `v2` and `v1` are seams."""
    found = (_read(root, path, names) for root, path, names in _places(pid, proc, v2, v1))
    return next((group for group in found if group is not None), None)


def kill_count(pid: int, *, proc: Path = Path("/proc"), v2: Path = _V2, v1: Path = _V1) -> KillCount | None:
    """That of the group which `memory_group` finds. Raises OSError when the process has gone."""
    for root, path, names in _places(pid, proc, v2, v1):
        file = root / path.lstrip("/") / names.events
        kills = _count(file, _KILLS)
        if kills is not None:
            return KillCount(file, _unit_of(path), kills)
    return None


def memory_room(pid: int, *, proc: Path = Path("/proc"), v2: Path = _V2, v1: Path = _V1) -> int | None:
    """Bytes that the process can still take before its group's limit or the machine's memory is reached, whichever is
    nearer; None where the kernel tells neither. Raises OSError when the process has gone."""
    group = memory_group(pid, proc=proc, v2=v2, v1=v1)
    machine = _count(proc / "meminfo", "MemAvailable:")
    rooms = [group.room if group is not None else None, None if machine is None else machine * 1024]
    return min((room for room in rooms if room is not None), default=None)


def unit_group(path: str, *, v2: Path = _V2, v1: Path = _V1) -> MemoryGroup | None:
    """The group at a path such as systemd tells as `ControlGroup`; None where nothing accounts for its memory."""
    return _read(v2, path, _NAMES_2) or _read(v1, path, _NAMES_1) if path.startswith("/") else None


@dataclass(frozen=True, slots=True)
class _Names:
    """How a version of control groups calls the files."""

    events: str
    used: str
    limit: str
    peak: str
    files: tuple[str, str]


_NAMES_2 = _Names(
    "memory.events", "memory.current", "memory.max", "memory.peak", files=("inactive_file", "active_file")
)
_NAMES_1 = _Names(
    "memory.oom_control",
    "memory.usage_in_bytes",
    "memory.limit_in_bytes",
    "memory.max_usage_in_bytes",
    files=("total_inactive_file", "total_active_file"),
)


def _places(pid: int, proc: Path, v2: Path, v1: Path) -> Iterator[tuple[Path, str, _Names]]:
    """Where the memory of a process may be accounted for: root, path and names of the files."""
    for line in read_small(str(proc / str(pid) / "cgroup")).decode().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield v1, path, _NAMES_1
        elif controllers == "":
            yield v2, path, _NAMES_2


def _unit_of(path: str) -> str:
    parts = [part for part in path.split("/") if part.endswith(_UNITS)]
    return parts[-1] if parts else path


def _read(root: Path, path: str, names: _Names) -> MemoryGroup | None:
    directory = root / path.lstrip("/")
    kills = _count(directory / names.events, _KILLS)
    if kills is None:
        return None
    used, limit, peak = (_bytes(directory / name) for name in (names.used, names.limit, names.peak))
    droppable = sum(_count(directory / "memory.stat", name) or 0 for name in names.files)
    return MemoryGroup(path, kills, used, limit, peak, droppable)


def _count(file: Path, name: str) -> int | None:
    text = _text(file)
    counts = dict(line.split(None, 1) for line in text.splitlines() if " " in line)
    count = counts.get(name, "").removesuffix("kB").strip()
    return int(count) if count.isdecimal() else None


def _bytes(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdecimal() and int(text) < _UNLIMITED else None


def _text(file: Path) -> str:
    try:
        return read_small(str(file)).decode()
    except OSError:
        return ""
