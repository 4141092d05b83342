"""What a process looks like from outside, for an incident: bounded, and honest about what could not be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.system.process import read_stat
from watchdog.units import format_bytes

_PROC = Path("/proc")
_EVIDENCE_BYTES = 4096
_EVIDENCE_THREADS = 32


@dataclass(frozen=True, slots=True)
class ProcessEvidence:
    """What a process looked like from outside. `parts` are texts by name; `unreadable`
    says what was refused, and why.
    """

    pid: int
    parts: dict[str, str] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()


def read_evidence(pid: int) -> ProcessEvidence:
    """State, wait channel, kernel stack, status, command line, descriptors and each thread's state, all bounded.

    Blocks for as long as /proc does, so call it in a thread. Never raises: what cannot be read is named.
    """
    root = _PROC / str(pid)
    readers: dict[str, Callable[[], str]] = {
        "state": lambda: _describe_state(pid),
        "wchan": lambda: _bounded(root / "wchan"),
        "stack": lambda: _bounded(root / "stack"),
        "status": lambda: _bounded(root / "status"),
        "cmdline": lambda: _bounded(root / "cmdline").replace("\0", " ").strip(),
        "descriptors": lambda: _describe_descriptors(root),
        "threads": lambda: _describe_threads(root),
    }
    parts: dict[str, str] = {}
    unreadable: list[str] = []
    for name, read in readers.items():
        try:
            parts[name] = read()
        except (OSError, ValueError) as error:
            unreadable.append(f"{name}: {getattr(error, 'strerror', None) or error}")
    return ProcessEvidence(pid, parts, tuple(unreadable))


_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "in uninterruptible sleep",
    "T": "stopped",
    "t": "stopped by a tracer",
    "Z": "zombie",
    "I": "idle",
    "X": "dead",
}


def _describe_state(pid: int) -> str:
    stat = read_stat(pid)
    if stat is None:
        raise ProcessLookupError(f"there is no process {pid}")
    return (
        f"{stat.state} ({_STATES.get(stat.state, 'unknown')}), {stat.threads} threads, "
        f"{stat.cpu_seconds:.2f} s of CPU, {format_bytes(stat.resident_bytes)} resident"
    )


def _describe_descriptors(root: Path) -> str:
    count = sum(1 for _ in (root / "fd").iterdir())
    for line in _bounded(root / "limits").splitlines():
        if line.startswith("Max open files"):
            return f"{count} open, limit {line.split()[3]}"
    return f"{count} open"


def _describe_threads(root: Path) -> str:
    threads = sorted(int(entry.name) for entry in (root / "task").iterdir())
    lines = []
    for thread in threads[:_EVIDENCE_THREADS]:
        stat = _bounded(root / "task" / str(thread) / "stat")
        name, _, rest = stat.rpartition(") ")
        lines.append(f"{thread} {name.partition('(')[2]} {rest[:1]} {_bounded(root / 'task' / str(thread) / 'wchan')}")
    if len(threads) > _EVIDENCE_THREADS:
        lines.append(f"and {len(threads) - _EVIDENCE_THREADS} more")
    return "\n".join(lines)


def _bounded(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_EVIDENCE_BYTES).decode("utf-8", "replace").strip()
