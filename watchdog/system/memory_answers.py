"""What the in-process memory agent of a service answers, as far as the watchdog reads it. Times are epoch seconds."""

from __future__ import annotations

from watchdog.system.proxy_api.answers import Answer


class CollectorGeneration(Answer):
    """What one generation of the garbage collector has done so far."""

    collections: int = 0
    collected: int = 0
    uncollectable: int = 0


class Heap(Answer):
    """glibc's malloc (mallinfo2): `free_bytes` are held and not used, `mmapped_bytes` are big blocks by themselves."""

    arena_bytes: int = 0
    in_use_bytes: int = 0
    free_bytes: int = 0
    mmapped_bytes: int = 0

    @property
    def used_bytes(self) -> int:
        """Everything that was asked for and not given back."""
        return self.in_use_bytes + self.mmapped_bytes


class Tracing(Answer):
    """Allocations are being traced; it ends by itself at `until`."""

    frames: int = 1
    since: float = 0.0
    until: float = 0.0
    traces: int | None = None
    traced_bytes: int = 0
    peak_bytes: int = 0
    table_bytes: int = 0
    """What keeping the traces takes."""


class AgentMemory(Answer):
    """A process's own account of itself. `requests` is None where it counts none, `heap` where malloc is no glibc's."""

    rss_bytes: int
    uss_bytes: int
    anon_bytes: int
    objects: int = 0
    allocated_blocks: int = 0
    requests: int | None = None
    gc: tuple[CollectorGeneration, ...] = ()
    heap: Heap | None = None
    tracing: Tracing | None = None
    descriptors: int = 0
    descriptors_limit: int | None = None
    sockets: int = 0
    threads: int = 0
    tasks: int = 0
    pid: int = 0


class Collection(Answer):
    """A full collection; bytes are anonymous ones, before it and after malloc gave back what it could."""

    collected: int
    before_bytes: int
    after_bytes: int
    pause_ms: float = 0.0
    uncollectable: int = 0


class Trim(Answer):
    """malloc_trim alone: what it gave back had been free and was held, which is fragmentation and no leak."""

    before_bytes: int
    after_bytes: int
    heap_before: Heap | None = None
    heap_after: Heap | None = None


class TypeCount(Answer):
    """Living objects of one type."""

    type: str
    module: str = ""
    count: int
    bytes: int = 0


class Pymalloc(Answer):
    """Python's own allocator for small objects."""

    arenas_bytes: int = 0
    in_use_bytes: int = 0


class Census(Answer):
    """Living objects by type, most first."""

    taken_at: float
    requests: int | None = None
    objects: int = 0
    types: tuple[TypeCount, ...] = ()
    pymalloc: Pymalloc | None = None
    pause_ms: float = 0.0
    child_seconds: float = 0.0


class SocketCount(Answer):
    """Sockets that are alike."""

    kind: str = ""
    peer: str = ""
    state: str = ""
    count: int = 0


class TaskCount(Answer):
    """Tasks of one coroutine that wait at one place."""

    what: str = ""
    waiting_at: str | None = None
    created_at: str | None = None
    count: int = 0


class ThreadCount(Answer):
    """Threads that are alike."""

    name: str = ""
    target: str | None = None
    created_at: str | None = None
    count: int = 0


class CreatedAt(Answer):
    """So many things were made at a line, `file:line`."""

    created_at: str
    count: int = 0


class Resources(Answer):
    """What a process holds besides memory. `*_created` are empty unless allocations are traced."""

    descriptors: dict[str, int] = {}
    sockets: tuple[SocketCount, ...] = ()
    tasks: tuple[TaskCount, ...] = ()
    threads: tuple[ThreadCount, ...] = ()
    sockets_created: tuple[CreatedAt, ...] = ()
    files_created: tuple[CreatedAt, ...] = ()


class Snapshot(Answer):
    """A snapshot of all traced allocations, kept as a file by the service. `pause_ms` is the service's longest pause
    that taking it caused."""

    name: str
    taken_at: float
    pid: int = 0
    requests: int | None = None
    traces: int = 0
    traced_bytes: int = 0
    frames: int = 1
    anon_bytes: int | None = None
    pause_ms: float = 0.0
    child_seconds: float = 0.0
    child_peak_bytes: int = 0
    bytes_on_disk: int = 0


class Snapshots(Answer):
    """All that are kept, oldest first."""

    snapshots: tuple[Snapshot, ...] = ()


class GrownLine(Answer):
    """A line's living allocations in the newer snapshot, and what they were in the older one."""

    file: str
    line: int
    bytes: int
    count: int
    bytes_before: int = 0
    count_before: int = 0
    traceback: tuple[tuple[str, int], ...] = ()
    """`(file, line)`, the allocation itself first; one entry where one frame was traced."""

    @property
    def grown_bytes(self) -> int:
        """Negative where it shrank."""
        return self.bytes - self.bytes_before

    @property
    def grown_count(self) -> int:
        """As many objects more."""
        return self.count - self.count_before


class Comparison(Answer):
    """Two snapshots, biggest growth first. `requests` is how many were served between them, None if unknown."""

    older: Snapshot
    newer: Snapshot
    seconds: float = 0.0
    requests: int | None = None
    grown_bytes: int = 0
    lines: tuple[GrownLine, ...] = ()
