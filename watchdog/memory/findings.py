"""What a diagnosis has seen of a process, and what it concludes: plain data, the same for store, command and report."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from watchdog.system.memory_answers import AgentMemory, Census, Collection, Comparison, Resources, Trim


class LeakKind(StrEnum):
    """What grows, and who has to look where."""

    PYTHON = "python"
    """Python objects are kept."""
    NATIVE = "native"
    """Memory that no Python code asked for: an extension, or a library under it."""
    FRAGMENTATION = "fragmentation"
    """Free memory that the allocator holds."""
    DESCRIPTORS = "descriptors"
    SOCKETS = "sockets"
    TASKS = "tasks"
    THREADS = "threads"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Reading:
    """A process's own figures at a moment (epoch seconds)."""

    at: float
    memory: AgentMemory


@dataclass(frozen=True, slots=True)
class Trend:
    """What the series of the last hours say; None where they say nothing."""

    shape: str | None = None
    bytes_per_hour: float | None = None
    bytes_per_request: float | None = None
    confidence: float | None = None
    seconds_to_limit: float | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """One diagnosis. `quiet` are readings before tracing, at the process's usual pace; `traced` one with each snapshot;
    `comparisons` are of neighbouring snapshots, `survivors` of the first with one that was taken after a full
    collection. What could not be had is None or empty, and said in `notes`."""

    service: str
    worker: str
    target: str
    began_at: float
    ended_at: float
    frames: int = 1
    quiet: tuple[Reading, ...] = ()
    traced: tuple[Reading, ...] = ()
    trimmed: Trim | None = None
    collected: Collection | None = None
    censuses: tuple[Census, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    survivors: Comparison | None = None
    resources: tuple[Resources, ...] = ()
    trend: Trend = Trend()
    suspected: str = ""
    """The resource that an alert named (`descriptors`, `sockets`, `tasks`, `threads`); empty for memory."""
    longest_pause_ms: float = 0.0
    """The service's own, over all that was done to it."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """A line of code, and what it keeps. `line` is 0 where only the file or the kind of thing is known. Rates are at
    the process's usual pace, None where that is not known."""

    file: str
    line: int
    package: str
    grown_bytes: int
    grown_count: int
    confidence: float
    bytes_per_hour: float | None = None
    bytes_per_request: float | None = None
    function: str = ""
    source: str = ""
    """The line's text."""
    traceback: tuple[tuple[str, int], ...] = ()
    remark: str = ""

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Verdict:
    """What leaks. `sentence` is what a person is told first; `explained` is the part of the growth that the named
    places make up, None where either is not known; `remarks` say what else was found."""

    kind: LeakKind
    sentence: str
    confidence: float
    places: tuple[Place, ...] = ()
    bytes_per_hour: float | None = None
    bytes_per_request: float | None = None
    seconds_to_limit: float | None = None
    explained: float | None = None
    remarks: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Finding:
    """What a diagnosis saw and concluded. `name` is the one it is kept under; `history` is the process's anonymous
    memory before and during it, `(epoch seconds, bytes)`."""

    name: str
    observation: Observation
    verdict: Verdict
    history: tuple[tuple[float, float], ...] = ()


def confidence_word(confidence: float) -> str:
    """`high`, `medium` or `low`."""
    return "high" if confidence >= 0.8 else "medium" if confidence >= 0.5 else "low"
