"""The memory of this process as seen from inside: figures, a census of types, traced allocations, what is left open.

One file without dependencies, to be mounted in any asyncio service: make a `MemoryAgent`, and either pass requests of
an own private socket to `handle`, or let it `serve` one. What would stop the service (counting every object, copying
every trace) is done in a forked child of the lowest priority, which dies with its parent, is the first to go when
memory runs out, and hands back JSON through a pipe. `python -m proxy.memory diff OLDER NEWER` compares two files.

The calls, the format of the files and how traces are read: docs/memory-snapshots.md.
"""

from __future__ import annotations

import _tracemalloc
import argparse
import asyncio
import contextlib
import gc
import io
import json
import os
import re
import resource
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import warnings
import zlib
from array import array
from bisect import bisect
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Document = dict[str, Any]
Line = tuple[str, int]
"""A place in the source: file and line."""
Frames = tuple[Line, ...]
"""Where something was allocated, innermost first."""
_T = TypeVar("_T")

_PAGE = 4096
_MIB = 1 << 20
_YOUNG_OBJECTS = 10_000
_STANDARD_LIBRARY = str(Path(os.__file__).parent)

_MAGIC = b"PWMEM\x00\x00\x01"
_SUFFIX = ".pwmem"
_NAME = re.compile(r"[A-Za-z0-9_-]+-[0-9]{13,}-[0-9]+\.pwmem")
_KEEP_BYTES = 64 * _MIB
_HEADER_LIMIT = 64 * 1024
_UNPACKED_LIMIT = 512 * _MIB

_BODY_LIMIT = 64 * 1024
_REQUEST_SECONDS = 10.0
_CONVERSATIONS = 16
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 409: "Conflict", 503: "Service Unavailable"}

_CHILD_SECONDS = 90.0
_BASE_BYTES = 48 * _MIB
"""What a child may need whatever it does."""
_BYTES_OF_A_TRACE = 112
"""What tracemalloc keeps for one living block: an entry, a trace and their malloc overhead (measured, CPython 3.11)."""
_AT_ONCE = 6
"""So many times the size of tracemalloc's tables are taken when all traces are read at once (measured: 4.4)."""
_PART = 8_192
"""So many traces are read at a time: what the processor's nearer caches hold."""
_LARGE_BYTES = 512
"""A census also counts what the collector does not track, strings say, from this size on."""
_BEAT_SECONDS = 0.005
_COUNTING_SECONDS = 0.01
_FEW_OBJECTS = 100_000
"""So many are looked at by the collector, or freed, within some ten milliseconds."""
_LITTLE_GARBAGE = 64
"""So few objects are left to the collector itself."""
_PORTION = 10_000
"""So many objects are looked at at a time."""
_SLICE = 256
"""So many descriptors or tasks are looked at before the service gets its turn."""


class Refused(Exception):  # noqa: N818 - what the caller is told, not a fault of this program
    """A call that is not carried out; `status` as in HTTP."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of this process: resident, its own alone (private clean and dirty pages), and anonymous."""

    rss_bytes: int
    uss_bytes: int
    anon_bytes: int


def footprint() -> Footprint:
    """Read from /proc/self/smaps_rollup (proc(5)); about a millisecond."""
    kilobytes: dict[str, int] = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        kilobytes[name] = int(rest.split()[0])
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return Footprint(kilobytes["Rss"] * 1024, private * 1024, kilobytes["Anonymous"] * 1024)


def resident_bytes() -> int:
    """Resident bytes from /proc/self/statm, a few microseconds; for answers that must be cheap."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def anonymous_bytes() -> int:
    """Nearly what `footprint` finds by walking all pages, from the kernel's own count (RssAnon); some microseconds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def settle() -> None:
    """To be called once everything that lives as long as the process is made: collections leave it alone from then on,
    and the youngest objects are looked at less often. A request makes some hundred, which nearly all die by count."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])


def heap() -> Document | None:
    """malloc's own figures over all its arenas (mallinfo2(3)); None where there is no glibc of 2.33 or newer. What is
    free in arenas of a process that does not shrink is fragmentation, not a leak."""
    libc = _libc()
    if not hasattr(libc, "mallinfo2"):
        return None
    figures = libc.mallinfo2()
    return {
        "arena_bytes": figures.arena,
        "in_use_bytes": figures.uordblks,
        "free_bytes": figures.fordblks,
        "mmapped_bytes": figures.hblkhd,
    }


def collect(generation: int = 2) -> Document:
    """A collection, a full one unless told otherwise, then malloc's free pages given back to the kernel."""
    before = anonymous_bytes()
    lost = gc.get_stats()[generation]["uncollectable"]
    began = time.perf_counter()
    collected = gc.collect(generation)
    _trim()
    pause = time.perf_counter() - began
    return {
        "collected": collected,
        "uncollectable": gc.get_stats()[generation]["uncollectable"] - lost,
        "before_bytes": before,
        "after_bytes": anonymous_bytes(),
        "pause_ms": _milliseconds(pause),
    }


def trim() -> Document:
    """malloc's free pages given back to the kernel, and nothing else; what shrinks by this was fragmentation."""
    before, heap_before = anonymous_bytes(), heap()
    began = time.perf_counter()
    _trim()
    pause = time.perf_counter() - began
    return {
        "before_bytes": before,
        "after_bytes": anonymous_bytes(),
        "heap_before": heap_before,
        "heap_after": heap(),
        "pause_ms": _milliseconds(pause),
    }


def stacks() -> str:
    """Where every thread and every asyncio task stands, as text."""
    out = io.StringIO()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001 - documented for exactly this
        out.write(f"Thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}\n")
    for task in asyncio.all_tasks():
        out.write(f"Task {task.get_name()} {task.get_coro()!r}:\n")
        task.print_stack(file=out)
        out.write("\n")
    return out.getvalue()


def head_room(root: Path = Path("/")) -> int:
    """Bytes that this process may still take: the least of MemAvailable and of what each control group above it
    allows, version 1 or 2; file pages that the kernel would drop count as free, as they do in MemAvailable."""
    figures = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    room = int(figures["MemAvailable"].split()[0]) * 1024
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.high", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        *limits, used, droppable = names
        group = mount / path.lstrip("/")
        for directory in (group, *group.parents):
            for limit in filter(None, limits):
                room = min(room, _room_of_group(directory, limit, used, droppable))
            if directory == mount:
                break
    return max(room, 0)


def _room_of_group(directory: Path, limit: str, used: str, droppable: str) -> int:
    try:
        allowed = int((directory / limit).read_text())
        taken = int((directory / used).read_text())
        figures = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group or limit here, or "max"
        return sys.maxsize
    return allowed - taken + int(figures.get(droppable, 0))


def _trim() -> None:
    libc = _libc()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@cache
def _libc() -> Any:
    """The C library with the calls used here declared; ctypes is imported only in a process that needs it."""
    import ctypes

    class Mallinfo2(ctypes.Structure):
        _fields_ = [
            (name, ctypes.c_size_t)
            for name in (
                "arena",
                "ordblks",
                "smblks",
                "hblks",
                "hblkhd",
                "usmblks",
                "fsmblks",
                "uordblks",
                "fordblks",
                "keepcost",
            )
        ]

    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallinfo2"):
        libc.mallinfo2.restype = Mallinfo2
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim.argtypes = [ctypes.c_size_t]
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    return libc


@dataclass(frozen=True, slots=True)
class _Collector:
    """Takes an object off the collector's lists, and puts one on the list of the youngest (CPython's stable ABI)."""

    untrack: Callable[[object], None]
    track: Callable[[object], None]


@cache
def _collector() -> _Collector:
    import ctypes

    python = ctypes.PyDLL(None)
    for function in (python.PyObject_GC_UnTrack, python.PyObject_GC_Track):
        function.argtypes, function.restype = [ctypes.py_object], None
    return _Collector(python.PyObject_GC_UnTrack, python.PyObject_GC_Track)


def _tracked_objects() -> int:
    return len(gc.get_objects()) + gc.get_freeze_count()


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _now() -> float:
    return time.time()  # noqa: TID251 - this file is mounted in services that have no clock.py


@dataclass(slots=True)
class _Pause:
    """The longest time for which this process itself was stopped by an operation, and how late its loop was at most
    meanwhile, for whatever reason."""

    longest: float = 0.0
    lateness: float = 0.0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.longest = max(self.longest, time.perf_counter() - began)


@contextlib.asynccontextmanager
async def _beating(pause: _Pause) -> AsyncIterator[None]:
    """Wakes up every few milliseconds and notes how late it was."""

    async def beat() -> None:
        while True:
            due = time.perf_counter() + _BEAT_SECONDS
            await asyncio.sleep(_BEAT_SECONDS)
            pause.lateness = max(pause.lateness, time.perf_counter() - due)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()


class _Child:
    """A forked child at work. Its descriptors are the pipe only, so that it keeps no connection or listener alive."""

    def __init__(self, work: Callable[[], Document], allowance: int, pause: _Pause) -> None:
        """Forks; the child may grow by `allowance` bytes. Refused (503) if there is no memory or process to be had."""
        self._pause = pause
        read_end, write_end = os.pipe()
        prctl, parent = _libc().prctl, os.getpid()
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            with pause.counted(), warnings.catch_warnings():
                # From 3.12 on Python warns when a process with threads forks: the child must not need a lock that
                # another thread held. It logs nothing, imports nothing, and is killed when its time is over.
                warnings.simplefilter("ignore", DeprecationWarning)
                self.pid = os.fork()
            if self.pid == 0:
                _be_child(work, write_end, parent, prctl, allowance)
        except OSError as error:
            os.close(read_end)
            raise Refused(503, f"cannot fork: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            os.close(write_end)
        self._read_end = read_end
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as error:
            os.close(read_end)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise Refused(503, f"cannot watch the child: {error.strerror}") from error

    async def answer(self, seconds: float) -> Document:
        """What its work returned. Refused if it says so, died or took longer than that."""
        try:
            async with asyncio.timeout(seconds):
                text = await self._received()
                await _readable(self._pidfd)
            code = self._reap()
        except TimeoutError:
            raise Refused(500, f"the child was not ready after {seconds:g} s and was killed") from None
        finally:
            os.close(self._read_end)
        if not text:
            raise ChildDied(code)
        document: Document = json.loads(text)
        if "error" in document:
            raise Refused(document["status"], document["error"])
        return document

    async def gone(self) -> None:
        """Kills it if it is still there, and waits until it is not."""
        if not self.reaped:
            self.kill()
            await _readable(self._pidfd)
            self._reap()

    @property
    def reaped(self) -> bool:
        """Whether nothing is left of it."""
        return self._pidfd < 0

    def kill(self) -> None:
        """At once; `answer` says so."""
        if not self.reaped:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def _received(self) -> bytes:
        os.set_blocking(self._read_end, False)
        text = b""
        while True:
            await _readable(self._read_end)
            part = os.read(self._read_end, _MIB)
            if not part:
                return text
            text += part

    def _reap(self) -> int:
        """Its exit code, negative for a signal; 0 if somebody else in this process has waited for it before."""
        os.close(self._pidfd)
        self._pidfd = -1
        with self._pause.counted():
            try:
                return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:
                return 0


async def _collect_these(objects: list[object], pause: _Pause) -> Document:
    """Puts them among the youngest, lets go of them, and collects these; while it holds them no other collection may
    come, which would take them for alive."""
    collector, enabled = _collector(), gc.isenabled()
    gc.disable()
    try:
        for first in range(0, len(objects), _PORTION):
            with pause.counted():
                part = objects[first : first + _PORTION]
                deque(map(collector.untrack, part), maxlen=0)
                deque(map(collector.track, part), maxlen=0)
                del part
            await asyncio.sleep(0)
        objects.clear()
        return collect(0)
    finally:
        if enabled:
            gc.enable()


async def _let_go(objects: list[object]) -> None:
    """In portions, so that the service goes on: each is written to."""
    while objects:
        del objects[-_PORTION:]
        await asyncio.sleep(0)


class ChildDied(Refused):
    """The child ended without an answer."""

    def __init__(self, code: int) -> None:
        self.crashed = -code in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        super().__init__(500, f"the child {how}")


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def _be_child(
    work: Callable[[], Document], pipe: int, parent: int, prctl: Callable[..., int], allowance: int
) -> NoReturn:
    code = 1
    try:
        gc.disable()
        prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(code)
        _forget_parent(pipe)
        try:
            _restrain(allowance)
            growth = _Growth.begin()
            document = work()
            document |= {"child_nice": os.getpriority(os.PRIO_PROCESS, 0), "child_peak_bytes": growth.peak_bytes()}
        except Refused as refused:
            document = {"status": refused.status, "error": str(refused)}
        except MemoryError:
            document = {"status": 503, "error": f"more than the {allowance // _MIB} MiB allowed to it was needed"}
        except Exception as error:  # noqa: BLE001 - told to the parent
            document = {"status": 500, "error": f"{type(error).__name__}: {error}"}
        text = memoryview(json.dumps(document).encode())
        while text:
            text = text[os.write(pipe, text) :]
        code = 0
    finally:
        os._exit(code)


def _forget_parent(pipe: int) -> None:
    """Signal handlers, the wake-up descriptor and all descriptors but the pipe are the parent's."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    nothing = os.open("/dev/null", os.O_RDWR)
    for standard in {0, 1, 2} - {pipe}:
        os.dup2(nothing, standard)
    os.closerange(3, pipe)
    os.closerange(max(pipe + 1, 3), os.sysconf("SC_OPEN_MAX"))


def _restrain(allowance: int) -> None:
    """Last in line for the processor and first for the OOM killer, where the service's sandbox lets it say so; bounded
    in memory and processor time in any case."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 19)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(_CHILD_SECONDS), int(_CHILD_SECONDS)))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = size + allowance
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


@dataclass(frozen=True, slots=True)
class _Growth:
    """What a child takes beyond the pages that it shares with its parent."""

    born_bytes: int

    @classmethod
    def begin(cls) -> _Growth:
        return cls(resident_bytes())

    def peak_bytes(self) -> int:
        """New pages at their most, and what of the parent's was copied because either has written to it."""
        highest = next(
            int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
        )
        own = footprint()
        copied = own.uss_bytes - (own.rss_bytes - self.born_bytes)
        return max(highest * 1024 - self.born_bytes, 0) + max(copied, 0)


class _Totals:
    """Living blocks by where they were allocated: [bytes, blocks] for each traceback."""

    def __init__(self) -> None:
        self.cells: dict[Any, list[int]] = {}

    def add(self, traces: list[Any]) -> None:
        """`traces` as tracemalloc gives them: (domain, size, frames, …)."""
        sizes: defaultdict[Any, list[int]] = defaultdict(list)
        for trace in traces:
            sizes[trace[2]].append(trace[1])
        for frames, those in sizes.items():
            cell = self.cells.setdefault(frames, [0, 0])
            cell[0] += sum(those)
            cell[1] += len(those)

    @property
    def bytes(self) -> int:
        return sum(cell[0] for cell in self.cells.values())


class _UnknownTables(Exception):  # noqa: N818 - a finding: this interpreter is not built as expected
    """The tables of tracemalloc are not where or what they are known to be."""


def _all_traces() -> _Totals:
    """Read at once, as the standard library does; takes some 250 bytes for each trace."""
    totals = _Totals()
    traces: Any = _tracemalloc._get_traces()  # noqa: SLF001 - take_snapshot() wraps each in an object
    _tracemalloc.stop()
    totals.add(traces)
    return totals


def _traces_in_parts(known_bytes: int, table_at: int) -> tuple[_Totals, int]:
    """The same in a hundredth of the memory, by showing the interpreter a part of its own table at a time.

    Only for a child, which may spoil its tables: the hooks of tracemalloc are taken off (its allocations no longer
    count), then the table's array of buckets is moved on part by part, and each time `_get_traces()` copies the little
    it can see. A layout that differs may kill the child; nothing else can happen.

    Returns the table's address too, which is the same next time (`table_at`; 0: not known yet). Raises _UnknownTables
    unless all parts sum up to `known_bytes`, what tracemalloc itself had counted before the child was made.
    """
    python = _interpreter()
    if python is None:
        raise _UnknownTables("this is not CPython on 64 bits as it is usually built")
    python.take_off_hooks()
    table_at = table_at or python.find_table()
    table = (python.ctypes.c_uint64 * 3).from_address(table_at)
    buckets, first = table[1], table[2]
    totals, foreign = _Totals(), False
    parts = min(max(1 << (table[0] // _PART).bit_length(), 1), buckets)
    for part in range(parts):
        table[1], table[2] = buckets // parts, first + part * (buckets // parts) * 8
        traces: Any = _tracemalloc._get_traces()  # noqa: SLF001 - see above
        if part == 0:
            foreign = any(trace[0] for trace in traces)
        elif foreign:  # other domains have tables of their own, which are shown whole each time
            traces = [trace for trace in traces if trace[0] == 0]
        totals.add(traces)
    if abs(totals.bytes - known_bytes) > max(_MIB, known_bytes // 1000):
        raise _UnknownTables(f"the tables sum up to {totals.bytes} bytes, and {known_bytes} are traced")
    return totals, table_at


@dataclass(frozen=True, slots=True)
class _Interpreter:
    """Where CPython keeps its traces: in a hash table (pycore_hashtable.h, unchanged from 3.8 to 3.14: number of
    entries, number of buckets, the buckets, four functions, …) that one of the interpreter's variables points to."""

    ctypes: Any
    runtime: int
    """The address of a variable of the interpreter; the one sought is in the same segment, or the one after it."""
    signature: bytes
    """The functions that tell the table of traces from others: hash, comparison, none to destroy a key."""

    def take_off_hooks(self) -> None:
        """Gives each domain the allocator back that tracemalloc put itself before (PyMem_SetAllocator)."""
        domain, allocator = self.ctypes.c_int, self.ctypes.c_void_p * 5
        for number in range(3):
            hooks = allocator()
            self.ctypes.pythonapi.PyMem_GetAllocator(domain(number), hooks)
            if not hooks[0]:
                raise _UnknownTables("the allocator has no hooks of tracemalloc")
            self.ctypes.pythonapi.PyMem_SetAllocator(domain(number), allocator.from_address(hooks[0]))

    def find_table(self) -> int:
        """The table's address; it begins with the number of entries, of buckets, and the address of these."""
        areas: list[tuple[int, int, bool]] = []
        spans: list[tuple[int, int]] = []
        previous = (0, "")
        for row in Path("/proc/self/maps").read_text().splitlines():
            span, access, _, _, _, *names = row.split(maxsplit=5)
            low, high = (int(end, 16) for end in span.split("-"))
            name = names[0] if names else ""
            if access.startswith("rw"):
                after = previous[0] == low and not name
                areas.append((low, high, low <= self.runtime < high or (after and bool(areas) and areas[-1][2])))
                if not name or name.startswith("["):  # where malloc has its memory from
                    spans.append((low, high))
            previous = (high, name)
        lows = [low for low, _ in spans]
        found: list[tuple[int, int]] = []
        for low, high, _ in (area for area in areas if area[2]):
            for address in set(memoryview(self.ctypes.string_at(low, high - low)).cast("Q")):
                at = bisect(lows, address) - 1
                inside = at >= 0 and address + 80 <= spans[at][1]
                if inside and address % 16 == 0 and self.ctypes.string_at(address + 32, 24) == self.signature:
                    found.append((self.ctypes.c_uint64.from_address(address).value, address))
        if not found:
            raise _UnknownTables("the table of traces was not found")
        return max(found)[1]


@cache
def _interpreter() -> _Interpreter | None:
    """To be called in the parent first: a child should import nothing."""
    import ctypes

    if sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    try:
        hash_pointer, equal_pointers, runtime = (
            ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0
            for name in ("_Py_hashtable_hash_ptr", "_Py_hashtable_compare_direct", "_PyRuntime")
        )
    except AttributeError:
        return None
    return _Interpreter(ctypes, runtime, struct.pack("=QQQ", hash_pointer, equal_pointers, 0))


def _take(file: Path, header: Document, known_bytes: int, table_at: int | None) -> Document:
    """For the child: reads the traces, in parts unless `table_at` is None, writes them, and says what it took. What
    this file and tracemalloc themselves have allocated is left out."""
    try:
        totals, table = (_all_traces(), 0) if table_at is None else _traces_in_parts(known_bytes, table_at)
    except _UnknownTables as unknown:
        return {"unknown": str(unknown)}
    own = {_take.__code__.co_filename, f"{_STANDARD_LIBRARY}/tracemalloc.py"}
    cells = {frames: cell for frames, cell in totals.cells.items() if not any(name in own for name, _ in frames)}
    header["traces"] = sum(count for _, count in cells.values())
    header["traced_bytes"] = sum(size for size, _ in cells.values())
    write_snapshot(file, header, cells)
    return {**header, "bytes_on_disk": file.stat().st_size, "table": table}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Living blocks by traceback at one moment."""

    header: Document
    cells: Mapping[Frames, tuple[int, int]]
    """Bytes and blocks."""


def write_snapshot(file: Path, header: Document, cells: Mapping[Frames, Sequence[int]]) -> None:
    """All or nothing: written beside, then renamed."""
    names: dict[str, int] = {}
    lengths, places, sums = array("H"), array("I"), array("Q")
    for frames, (size, count) in cells.items():
        lengths.append(len(frames))
        for name, line in frames:
            places.extend((names.setdefault(name, len(names)), line))
        sums.extend((size, count))
    texts = [name.encode("utf-8", "surrogateescape") for name in names]
    parts = [array("I", map(len, texts)), lengths, places, sums]
    if sys.byteorder == "big":
        for part in parts:
            part.byteswap()
    counts = struct.pack("<III", len(texts), len(lengths), len(places))
    payload = zlib.compress(
        b"".join([counts, parts[0].tobytes(), b"".join(texts), *(p.tobytes() for p in parts[1:])]), 1
    )
    told = json.dumps(header).encode()
    partial = file.with_suffix(".part")
    partial.touch(0o600)
    with partial.open("wb") as out:
        out.write(_MAGIC + struct.pack("<II", len(told), len(payload)) + told + payload)
    partial.rename(file)


def read_header(file: Path) -> Document:
    """What a snapshot says of itself. Refused (500) with the file's name if it is none, or of another version."""
    with _told_by_name(file), file.open("rb") as source:
        return _header(source)[0]


def read_snapshot(file: Path) -> Snapshot:
    """Refused (500) with the file's name if it is none, cut short or damaged."""
    with _told_by_name(file), file.open("rb") as source:
        header, length = _header(source)
        packed = source.read(length)
        if len(packed) != length:
            raise ValueError("it is cut short")
        unpacker = zlib.decompressobj()
        payload = unpacker.decompress(packed, _UNPACKED_LIMIT)
        if not unpacker.eof:
            raise ValueError("it is cut short, or too large")
        return Snapshot(header, _cells(memoryview(payload)))


def _header(source: io.BufferedReader) -> tuple[Document, int]:
    magic = source.read(len(_MAGIC))
    if magic[:-1] != _MAGIC[:-1]:
        raise ValueError("it is no snapshot")
    if magic != _MAGIC:
        raise ValueError(f"it is of version {magic[-1]}, and this reads version {_MAGIC[-1]}")
    length, following = struct.unpack("<II", source.read(8))
    if length > _HEADER_LIMIT:
        raise ValueError("its header is too long")
    header = json.loads(source.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header, following


def _cells(payload: memoryview) -> dict[Frames, tuple[int, int]]:
    texts, tracebacks, halves = struct.unpack_from("<III", payload)
    at = 12

    def taken(kind: str, count: int) -> array[int]:
        nonlocal at
        part = array(kind)
        part.frombytes(payload[at : at + count * part.itemsize])
        if len(part) != count:
            raise ValueError("it holds less than it says")
        if sys.byteorder == "big":
            part.byteswap()
        at += count * part.itemsize
        return part

    names = []
    for length in taken("I", texts):
        names.append(str(payload[at : at + length], "utf-8", "surrogateescape"))
        at += length
    lengths, places, sums = taken("H", tracebacks), taken("I", halves), taken("Q", 2 * tracebacks)
    cells, first = {}, 0
    for index, length in enumerate(lengths):
        last = first + 2 * length
        frames = tuple((names[places[place]], places[place + 1]) for place in range(first, last, 2))
        cells[frames] = (sums[2 * index], sums[2 * index + 1])
        first = last
    return cells


@contextlib.contextmanager
def _told_by_name(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Refused(404, f"there is no snapshot {file.name}") from None
    except (OSError, ValueError, struct.error, zlib.error, IndexError) as error:
        raise Refused(500, f"{file.name} cannot be read: {error}") from error


def compare(older: Snapshot, newer: Snapshot, top: int) -> Document:
    """What grew from one to the other: by the line that allocated, most bytes first; each with the traceback that grew
    most among its own."""
    lines: dict[Line, list[int]] = {}
    heaviest: dict[Line, tuple[int, Frames]] = {}
    for frames in older.cells.keys() | newer.cells.keys():
        before, now = older.cells.get(frames, (0, 0)), newer.cells.get(frames, (0, 0))
        line = frames[0]
        sums = lines.setdefault(line, [0, 0, 0, 0])
        for at, figure in enumerate((*now, *before)):
            sums[at] += figure
        grown = now[0] - before[0]
        if line not in heaviest or grown > heaviest[line][0]:
            heaviest[line] = (grown, frames)
    ranked = sorted(lines, key=lambda line: (lines[line][2] - lines[line][0], line))
    asked: list[Any] = [snapshot.header.get("requests") for snapshot in (older, newer)]
    return {
        "older": older.header,
        "newer": newer.header,
        "seconds": round(newer.header["taken_at"] - older.header["taken_at"], 3),
        "requests": asked[1] - asked[0] if all(isinstance(each, int) for each in asked) else None,
        "grown_bytes": sum(sums[0] - sums[2] for sums in lines.values()),
        "lines": [
            {
                "file": line[0],
                "line": line[1],
                **dict(zip(("bytes", "count", "bytes_before", "count_before"), lines[line], strict=True)),
                "traceback": [list(frame) for frame in heaviest[line][1]],
            }
            for line in ranked[:top]
        ],
    }


def _count_types(top: int) -> Document:
    """For the child: living objects by type, settled ones too. The collector tracks containers only, so what they
    hold of large untracked objects is counted as well, each once."""
    gc.unfreeze()
    objects = gc.get_objects()
    counts, sizes = Counter(map(type, objects)), Counter[type]()
    for one in objects:
        sizes[type(one)] += _size(one)
    seen: set[int] = set()
    for first in range(0, len(objects), 1000):
        for one in gc.get_referents(*objects[first : first + 1000]):
            if not gc.is_tracked(one) and id(one) not in seen and (size := _size(one)) >= _LARGE_BYTES:
                seen.add(id(one))
                counts[type(one)] += 1
                sizes[type(one)] += size
    return {
        "objects": len(objects),
        "types": [
            {"type": kind.__qualname__, "module": str(kind.__module__), "count": counts[kind], "bytes": size}
            for kind, size in sizes.most_common(top)
        ],
        "pymalloc": _small_blocks(),
    }


def _find_garbage(objects: list[object]) -> Document:
    """For the child: how many of all objects a full collection would free, and if the parent holds all in `objects`,
    their places in it, unless they are too many. Found as the collector does it (what has more references than the
    others hold is alive, and so is all that it leads to), but no finalizer is run."""
    untrack, held_by_parent = _collector().untrack, bool(objects)
    untrack(objects)  # what this list holds is not alive by that
    objects += [] if held_by_parent else gc.get_objects()
    alone = next(map(sys.getrefcount, [object()]))
    once = array("q", map(sys.getrefcount, objects))
    held = list(filter(gc.is_tracked, _referents(objects)))
    twice = array("q", map(sys.getrefcount, objects))  # now what the others hold counts double
    alive = [one for one, count, more in zip(objects, once, twice, strict=True) if count - (more - count) > alone]
    del held, once, twice
    while alive:
        part = alive[-_PORTION:]
        del alive[-_PORTION:]
        for one in part:
            untrack(one)
        for one in filter(gc.is_tracked, gc.get_referents(*part)):
            untrack(one)
            alive.append(one)
    garbage = [place for place, one in enumerate(objects) if gc.is_tracked(one)]
    return {"found": len(garbage), "places": garbage if held_by_parent and len(garbage) <= _FEW_OBJECTS else []}


def _referents(objects: Sequence[object]) -> Iterator[object]:
    """What they hold, each as often as it is held."""
    for first in range(0, len(objects), _PORTION):
        yield from gc.get_referents(*objects[first : first + _PORTION])


def _size(one: object) -> int:
    try:
        return sys.getsizeof(one)
    except (TypeError, ValueError):  # a type whose __sizeof__ does not keep to the rules
        return 0


def _small_blocks() -> Document | None:
    """For the child: CPython's own allocator, as it prints itself; None where another allocator is in use."""
    printed = os.memfd_create("pymalloc")
    os.dup2(printed, 2)
    sys._debugmallocstats()  # noqa: SLF001 - the only way to these figures
    text = os.pread(printed, _MIB, 0).decode()
    arenas = re.search(r"arenas \* \d+ bytes/arena\s*= *([\d,]+)", text)
    blocks = re.search(r"bytes in allocated blocks\s*= *([\d,]+)", text)
    if arenas is None or blocks is None:
        return None
    return {
        "arenas_bytes": int(arenas[1].replace(",", "")),
        "in_use_bytes": int(blocks[1].replace(",", "")),
    }


def _count_created() -> Document:
    """For the child: where living sockets and files were created, as far as they were made while allocations were
    traced."""
    created: dict[str, Counter[str]] = {"sockets": Counter(), "files": Counter()}
    kinds: dict[type, str | None] = {}
    for one in gc.get_objects():
        kind = type(one)
        if kind not in kinds:
            kinds[kind] = _opened(kind)
        if (what := kinds[kind]) is not None:
            created[what][_created_at(one) or ""] += 1
    return {
        kind: [{"created_at": place, "count": count} for place, count in places.most_common() if place]
        for kind, places in created.items()
    }


def _opened(kind: type) -> str | None:
    """What objects of a type hold open, if anything."""
    theirs = str(kind.__module__).startswith("uvloop") and kind.__name__.endswith("Transport")
    if theirs or issubclass(kind, (socket.socket, asyncio.BaseTransport)):
        return "sockets"
    return "files" if issubclass(kind, io.FileIO) else None  # which every open file has one of, however it is wrapped


def _created_at(one: object) -> str | None:
    """The innermost line outside the standard library that led to this object, if it was traced: `file:line`."""
    frames = _tracemalloc._get_object_traceback(one)  # noqa: SLF001 - tracemalloc wraps it in objects, and is not loaded
    if not frames:
        return None
    lines: Sequence[Line] = frames
    theirs = (line for line in lines if not line[0].startswith((_STANDARD_LIBRARY, "<frozen")))
    return "{}:{}".format(*next(theirs, lines[0]))


_KINDS = (
    (re.compile(r"socket:"), "socket"),
    (re.compile(r"pipe:"), "pipe"),
    (re.compile(r"anon_inode:\[?([a-z]+)\]?"), None),
    (re.compile(r"/memfd:"), "memfd"),
    (re.compile(r"/dev/"), "device"),
    (re.compile(r"/"), "file"),
)
_TCP_STATES = (
    "",
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
)


def _descriptors() -> dict[int, str]:
    """What each open descriptor is for."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of the listing itself, or one just closed
            target = str(entry.readlink())
            for pattern, kind in _KINDS:
                if match := pattern.match(target):
                    found[int(entry.name)] = kind or match[1]
                    break
            else:
                found[int(entry.name)] = "other"
    return found


def _socket_figures(descriptor: int, listening: Collection[Any]) -> tuple[str, str, str]:
    """Kind, peer and state. A connection that was accepted is named by its local address, as each peer has a port of
    its own; one that was opened, by the peer's."""
    with socket.socket(fileno=os.dup(descriptor)) as one:
        stream = one.type & socket.SOCK_STREAM == socket.SOCK_STREAM
        if one.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                return "unix", _address(one.getpeername() or one.getsockname()), "established"
            listens = stream and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            return "unix", _address(one.getsockname()), "listen" if listens else "unconnected"
        if one.family not in (socket.AF_INET, socket.AF_INET6):
            return one.family.name.lower().removeprefix("af_"), "", ""
        kind = "tcp" if stream else "udp"
        state = _TCP_STATES[one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]] if stream else ""
        local = one.getsockname()
        if state == "listen":
            return kind, _address(local), state
        with contextlib.suppress(OSError):
            peer = one.getpeername()
            return kind, f"accepted at {_address(local)}" if local[1] in listening else _address(peer), state
        return kind, "", state


def _address(address: Any) -> str:
    match address:
        case str():
            return address
        case bytes():
            return "@" + address.lstrip(b"\0").decode("utf-8", "replace")
        case [host, port, *_]:
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return ""


async def _sockets(descriptors: Iterable[int]) -> Counter[tuple[str, str, str]]:
    found: Counter[tuple[str, str, str]] = Counter()
    listening: set[int] = set()
    everything = list(descriptors)
    for descriptor in everything:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
            if one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockopt(
                socket.SOL_SOCKET, socket.SO_ACCEPTCONN
            ):
                listening.add(one.getsockname()[1])
    for number, descriptor in enumerate(everything):
        with contextlib.suppress(OSError):  # closed meanwhile
            found[_socket_figures(descriptor, listening)] += 1
        if number % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
    return found


async def _tasks() -> Counter[tuple[str, str | None, str | None]]:
    found: Counter[tuple[str, str | None, str | None]] = Counter()
    for number, task in enumerate(asyncio.all_tasks()):
        coroutine = task.get_coro()
        what = getattr(coroutine, "__qualname__", type(coroutine).__qualname__)
        found[what, _waiting_at(coroutine), _created_at(task)] += 1
        if number % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
    return found


def _waiting_at(coroutine: Any) -> str | None:
    """`file:line` of the innermost await, through coroutines and generators."""
    place = None
    while coroutine is not None:
        prefix = next((prefix for prefix in ("cr", "gi", "ag") if hasattr(coroutine, f"{prefix}_frame")), None)
        frame = getattr(coroutine, f"{prefix}_frame", None)
        if frame is None:
            break
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        coroutine = getattr(coroutine, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await", None)
    return place


def _threads() -> Counter[tuple[str, str | None, str | None]]:
    found: Counter[tuple[str, str | None, str | None]] = Counter()
    for thread in threading.enumerate():
        target = getattr(thread, "_target", None)
        name = re.sub(r"\d+", "N", thread.name)
        found[name, getattr(target, "__qualname__", None), _created_at(thread)] += 1
    return found


def _rows(found: Counter[tuple[str, _T, _T]], names: tuple[str, str, str], top: int) -> list[Document]:
    return [dict(zip((*names, "count"), (*key, count), strict=True)) for key, count in found.most_common(top)]


@dataclass(frozen=True, slots=True)
class _Key:
    """A key that a call's body may have: a number between two, or a text, which must be given."""

    kind: type[int | float | str]
    default: float = 0
    least: float = 0
    most: float = 0


_CALLS: dict[tuple[str, ...], dict[str, _Key]] = {
    ("GET", "memory"): {},
    ("POST", "gc"): {"search_seconds": _Key(float, 20, 0, _CHILD_SECONDS)},
    ("POST", "memory", "trim"): {},
    ("POST", "memory", "census"): {"top": _Key(int, 40, 1, 1000)},
    ("POST", "memory", "resources"): {"top": _Key(int, 20, 1, 1000)},
    ("POST", "memory", "trace"): {"frames": _Key(int, 1, 1, 100), "limit_seconds": _Key(float, 900, 1, 86_400)},
    ("DELETE", "memory", "trace"): {},
    ("GET", "memory", "snapshots"): {},
    ("POST", "memory", "snapshots"): {},
    ("POST", "memory", "compare"): {"older": _Key(str), "newer": _Key(str), "top": _Key(int, 20, 1, 1000)},
}


def _asked(method: str, path: tuple[str, ...], body: Mapping[str, Any]) -> dict[str, Any]:
    """The body with its defaults. Refused: 404 for a call that there is not, 400 when the body is not as expected."""
    keys = _CALLS.get((method, *path))
    if keys is None:
        raise Refused(404, f"no such call: {method} /{'/'.join(path)}")
    if unknown := sorted(body.keys() - keys.keys()):
        raise Refused(400, f"unknown key {unknown[0]!r}; expected {', '.join(keys) or 'none'}")
    asked = {}
    for name, key in keys.items():
        given = body.get(name, key.default)
        if key.kind is str:
            if not isinstance(given, str):
                raise Refused(400, f"{name}: expected a text")
        elif type(given) not in (int, key.kind) or not key.least <= given <= key.most:
            whole = "a whole number" if key.kind is int else "a number"
            raise Refused(400, f"{name}: expected {whole} from {key.least:g} to {key.most:g}")
        asked[name] = given
    return asked


@dataclass(frozen=True, slots=True)
class _Trace:
    """Tracing that this agent has started, and the thread that will stop it whatever the event loop does."""

    since: float
    until: float
    limit: threading.Timer


@dataclass(frozen=True, slots=True)
class _Counted:
    """When all objects were last counted: how many of how many blocks, how long it took, and when it is due again."""

    objects: int
    blocks: int
    seconds: float
    due: float


class MemoryAgent:
    """Answers for one process. Everything that takes long is one at a time, and is ended by cancelling the caller."""

    def __init__(
        self,
        directory: Path,
        *,
        requests: Callable[[], int] | None = None,
        name: str = "0",
        keep: int = 48,
        room: Callable[[], int] = head_room,
    ) -> None:
        """Snapshots go to `directory`, the newest `keep` of them (64 MiB at most) for each `name`, which tells agents
        that share a directory apart. `requests` counts what the service has served; `room` tells how many bytes it may
        still take."""
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"the agent's name {name!r} must be made of letters, digits, _ and -")
        self._directory = directory
        self._requests = requests
        self._name = name
        self._keep = keep
        self._room = room
        self._trace: _Trace | None = None
        self._ending = threading.Lock()
        self._busy = ""
        self._pauses: dict[str, float] = {}
        self._traces: int | None = None
        self._counted = _Counted(0, 1, 0.0, 0.0)
        self._count_objects()  # while there are few: what that takes tells what it will take
        self._in_parts = True
        self._table = 0
        self._child: _Child | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._server: asyncio.AbstractServer | None = None
        self._served_at = (Path(), 0)
        self._conversations: set[asyncio.Task[None]] = set()

    async def handle(self, method: str, path: tuple[str, ...], body: Mapping[str, Any]) -> tuple[int, Document]:
        """The one way in for control sockets; 404 for what it does not know."""
        try:
            asked = _asked(method, path, body)
            match method, *path:
                case "GET", "memory":
                    return 200, self._figures()
                case "POST", "gc":
                    return 200, self._noted("gc", await self._collect(**asked))
                case "POST", "memory", "trim":
                    return 200, self._noted("trim", trim())
                case "POST", "memory", "census":
                    return 200, await self._census(**asked)
                case "POST", "memory", "resources":
                    return 200, await self._resources(**asked)
                case "POST", "memory", "trace":
                    return 200, self._start(**asked)
                case "DELETE", "memory", "trace":
                    return 200, self._stop()
                case "GET", "memory", "snapshots":
                    return 200, self._listing()
                case "POST", "memory", "snapshots":
                    return 200, await self._snapshot()
                case _:
                    return 200, await self._compare(**asked)
        except Refused as refused:
            return refused.status, {"error": str(refused)}
        except OSError as error:
            return 500, {"error": str(error)}

    async def close(self) -> None:
        """Ends a child at work (its caller is told so), stops tracing, closes the socket."""
        if self._server is not None:
            self._server.close()
            socket_path, inode = self._served_at
            with contextlib.suppress(FileNotFoundError):
                if socket_path.stat().st_ino == inode:  # not a successor's
                    socket_path.unlink()
            for task in self._conversations:
                task.cancel()
            await asyncio.gather(*self._conversations, return_exceptions=True)
            await self._server.wait_closed()
        if self._child is not None:
            self._child.kill()
        await self._idle.wait()
        if self._trace is not None:
            self._end(self._trace)

    # figures

    def _figures(self) -> Document:
        counts = Counter(_descriptors().values())
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return {
            "pid": os.getpid(),
            **asdict(footprint()),
            "objects": self._count_objects(),
            "allocated_blocks": sys.getallocatedblocks(),
            "requests": self._served(),
            "gc": gc.get_stats(),
            "heap": heap(),
            "tracing": self._tracing(),
            "descriptors": counts.total(),
            "descriptors_limit": None if limit == resource.RLIM_INFINITY else limit,
            "sockets": counts["socket"],
            "threads": threading.active_count(),
            "tasks": len(asyncio.all_tasks()),
            "pauses": self._pauses,
            "busy": self._busy or None,
        }

    def _served(self) -> int | None:
        return None if self._requests is None else self._requests()

    def _count_objects(self) -> int:
        """Counted anew when that would take less than a hundredth of the time since, and not long, for it touches every
        object; else as many more than the last time as there are more blocks."""
        last, blocks = self._counted, max(sys.getallocatedblocks(), 1)
        more = blocks / last.blocks
        began = time.perf_counter()
        if began < last.due or last.seconds * more > _COUNTING_SECONDS:
            return round(last.objects * more)
        objects = _tracked_objects()
        ended = time.perf_counter()
        self._counted = _Counted(objects, blocks, ended - began, ended + 100 * (ended - began))
        return objects

    def _noted(self, what: str, document: Document) -> Document:
        self._pauses[what] = document["pause_ms"]
        return document

    # children

    async def _in_child(
        self, what: str, work: Callable[[], Document], allowance: int, seconds: float = _CHILD_SECONDS
    ) -> Document:
        """What `work` answers in a child, with the pause that it cost here. Refused: 409 while another is at work,
        503 without the memory that the child may need and what both may come to hold twice."""
        if self._busy:
            raise Refused(409, f"busy with {self._busy}")
        # A service that goes on writes to pages that it shares with the child; they then exist twice.
        self._check_room(what, allowance + anonymous_bytes() // 8)
        self._busy = what
        self._idle.clear()
        pause, began = _Pause(), time.perf_counter()
        try:
            async with _beating(pause):
                await asyncio.sleep(0)  # what led here is no part of the pause
                self._child = _Child(work, allowance, pause)
                document = await self._child.answer(seconds)
        finally:
            if self._child is None or self._child.reaped:
                self._left()
            else:
                self._leaving = asyncio.create_task(self._leave(self._child))
        figures = {
            "pause_ms": _milliseconds(pause.longest),
            "lateness_ms": _milliseconds(pause.lateness),
            "child_seconds": round(time.perf_counter() - began, 3),
            "allowed_bytes": allowance,
        }
        return self._noted(what, document | figures)

    async def _leave(self, child: _Child) -> None:
        """A task of its own, so that the child's end is awaited though the caller no longer is there."""
        await child.gone()
        self._left()

    def _untraced(self, work: Callable[[], Document]) -> Callable[[], Document]:
        """What a child allocates is not traced; else it would write all through the tables that it shares."""
        python = _interpreter() if self._in_parts and _tracemalloc.is_tracing() else None
        if python is None:
            return work

        def quietly() -> Document:
            python.take_off_hooks()
            return work()

        return quietly

    def _left(self) -> None:
        self._child, self._busy = None, ""
        self._idle.set()

    def _check_room(self, what: str, needed: int) -> None:
        room = self._room()
        if room < needed:
            raise Refused(503, f"{what} may need {needed // _MIB} MiB, and {room // _MIB} MiB are free to this process")

    async def _collect(self, search_seconds: float) -> Document:
        """A full collection stops the process while it looks at every object. So where these are many, a child looks
        whether there is garbage; only then all objects are listed, which is a shorter pause, and what another child
        finds among them is collected together with the young. Everything at once all the same if no child can be had,
        or one takes longer than `search_seconds`, or if freeing that much would take as long."""
        if self._count_objects() - gc.get_freeze_count() <= _FEW_OBJECTS:
            return collect()
        pause = _Pause()
        objects: list[object] = []
        _collector()
        try:
            told = await self._search(objects, search_seconds)
            if _LITTLE_GARBAGE < told["found"] <= _FEW_OBJECTS:
                with pause.counted():
                    objects = gc.get_objects()  # held, so that each is at its place when the child has found it
                told |= await self._search(objects, search_seconds) | {"pause_ms": told["pause_ms"]}
            found = [objects[place] for place in told.pop("places")]
        except Refused as refused:
            if refused.status == 409:
                raise
            told, found = {"found": sys.maxsize, "pause_ms": 0.0}, []
        finally:
            await _let_go(objects)
        await self._idle.wait()
        if told["found"] > _FEW_OBJECTS:
            return collect()
        collected = await _collect_these(found, pause)
        pauses = (told["pause_ms"], _milliseconds(pause.longest), collected["pause_ms"])
        return told | collected | {"pause_ms": max(pauses)}

    async def _search(self, objects: list[object], seconds: float) -> Document:
        allowance = _BASE_BYTES + 2 * anonymous_bytes() + 3 * sys.getallocatedblocks() * struct.calcsize("P")
        return await self._in_child("gc", self._untraced(lambda: _find_garbage(objects)), allowance, seconds)

    async def _census(self, top: int) -> Document:
        taken = {"taken_at": _now(), "requests": self._served()}
        allowance = _BASE_BYTES + anonymous_bytes() + 3 * sys.getallocatedblocks() * struct.calcsize("P")
        return taken | await self._in_child("census", self._untraced(lambda: _count_types(top)), allowance)

    async def _resources(self, top: int) -> Document:
        descriptors = _descriptors()
        sockets = await _sockets(number for number, kind in descriptors.items() if kind == "socket")
        tasks, threads = await _tasks(), _threads()
        document: Document = {
            "taken_at": _now(),
            "requests": self._served(),
            "descriptors": dict(Counter(descriptors.values()).most_common()),
            "sockets": _rows(sockets, ("kind", "peer", "state"), top),
            "tasks": _rows(tasks, ("what", "waiting_at", "created_at"), top),
            "threads": _rows(threads, ("name", "target", "created_at"), top),
            "sockets_created": [],
            "files_created": [],
        }
        if _tracemalloc.is_tracing():
            created = await self._in_child("resources", _count_created, _BASE_BYTES + anonymous_bytes())
            document |= {f"{kind}_created": created.pop(kind)[:top] for kind in ("sockets", "files")} | created
        return document

    # tracing

    def _tracing(self) -> Document | None:
        if not _tracemalloc.is_tracing():
            return None
        size, peak = _tracemalloc.get_traced_memory()
        ours = self._trace
        return {
            "frames": _tracemalloc.get_traceback_limit(),
            "ours": ours is not None,
            "since": ours and ours.since,
            "until": ours and ours.until,
            "traces": self._traces,
            "traced_bytes": size,
            "peak_bytes": peak,
            "table_bytes": _tracemalloc.get_tracemalloc_memory(),
        }

    def _start(self, frames: int, limit_seconds: float) -> Document:
        if _tracemalloc.is_tracing():
            by = f"until {self._trace.until:.0f}" if self._trace else "by somebody else, who alone may stop it"
            raise Refused(409, f"allocations are traced already, {by}; snapshots can be taken")
        self._check_room("tracing", _BASE_BYTES + sys.getallocatedblocks() * _BYTES_OF_A_TRACE)
        now = _now()
        limit = threading.Timer(limit_seconds, lambda: self._end(trace))
        limit.daemon, limit.name = True, "memory-agent-limit"
        trace = _Trace(now, now + limit_seconds, limit)
        self._trace, self._traces = trace, None
        _tracemalloc.start(frames)
        limit.start()
        return self._tracing() or {}

    def _stop(self) -> Document:
        if self._trace is None:
            tracing = _tracemalloc.is_tracing()
            raise Refused(
                409, "tracing was started by somebody else, who alone may stop it" if tracing else "not tracing"
            )
        began = time.perf_counter()
        self._end(self._trace)
        return self._noted("trace", {"tracing": None, "pause_ms": _milliseconds(time.perf_counter() - began)})

    def _end(self, trace: _Trace) -> None:
        """Called by the loop, or by the limit's own thread; of two, one comes too late and does nothing."""
        trace.limit.cancel()
        with self._ending:
            if self._trace is trace:
                self._trace = None
                _tracemalloc.stop()

    async def _snapshot(self) -> Document:
        if not _tracemalloc.is_tracing():
            raise Refused(409, "not tracing")
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        now = _now()
        name = f"{self._name}-{int(now * 1000)}-{os.getpid()}{_SUFFIX}"
        header: Document = {
            "name": name,
            "taken_at": now,
            "pid": os.getpid(),
            "requests": self._served(),
            "frames": _tracemalloc.get_traceback_limit(),
            "anon_bytes": anonymous_bytes(),
        }
        file = self._directory / name
        _interpreter()
        try:
            document = await self._taken(file, header)
        finally:
            file.with_suffix(".part").unlink(missing_ok=True)
        self._traces, self._table = document["traces"], document.pop("table")
        self._prune()
        return document

    async def _taken(self, file: Path, header: Document) -> Document:
        """Read in parts if that goes with this interpreter, which is tried once; else all at once."""
        tables = _tracemalloc.get_tracemalloc_memory()
        known, _ = _tracemalloc.get_traced_memory()
        if self._in_parts:
            try:
                document = await self._in_child(
                    "snapshot", lambda: _take(file, header, known, self._table), _BASE_BYTES + tables
                )
            except ChildDied as died:
                if not died.crashed:
                    raise
                document = {"unknown": str(died)}
            if "unknown" not in document:
                return document
            self._in_parts = False
        return await self._in_child(
            "snapshot", lambda: _take(file, header, known, None), _BASE_BYTES + _AT_ONCE * tables
        )

    # snapshots on disk

    def _files(self) -> list[Path]:
        """Of this agent's name, oldest first."""
        mine = re.compile(re.escape(self._name) + r"-([0-9]{13,})-[0-9]+\.pwmem")
        if not self._directory.is_dir():
            return []
        return sorted(file for file in self._directory.iterdir() if mine.fullmatch(file.name))

    def _prune(self) -> None:
        """The newest are kept, as many as are allowed by number and by bytes, and one in any case."""
        total = 0
        for number, file in enumerate(reversed(self._files())):
            total += file.stat().st_size
            if number and (number >= self._keep or total > _KEEP_BYTES):
                file.unlink()
        for abandoned in self._directory.glob(f"{self._name}-*.part"):  # by one who was killed while writing
            abandoned.unlink()

    def _listing(self) -> Document:
        snapshots, unreadable = [], []
        for file in self._files():
            try:
                snapshots.append(read_header(file))
            except Refused as refused:
                unreadable.append({"name": file.name, "error": str(refused)})
        return {"snapshots": snapshots, "unreadable": unreadable}

    async def _compare(self, older: str, newer: str, top: int) -> Document:
        files = []
        for name in (older, newer):
            if not _NAME.fullmatch(name):
                raise Refused(400, f"{name!r} is no snapshot's name")
            files.append(self._directory / name)
        unpacked = sum(file.stat().st_size for file in files if file.exists()) * 40

        def work() -> Document:
            return compare(read_snapshot(files[0]), read_snapshot(files[1]), top)

        return await self._in_child("compare", self._untraced(work), _BASE_BYTES + unpacked)

    # a socket of its own

    async def serve(self, socket_path: Path) -> None:
        """Serves the calls as JSON over HTTP/1.1 on a Unix socket that only this user can open (0600), one request a
        connection; a caller that hangs up cancels what it asked for. Returns once it listens. OSError if the path
        cannot be bound."""
        socket_path.unlink(missing_ok=True)  # noqa: ASYNC240 - once, at the start
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        previous = os.umask(0o177)
        try:
            listener.bind(str(socket_path))
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(previous)
        self._served_at = (socket_path, socket_path.stat().st_ino)  # noqa: ASYNC240 - the same
        self._server = await asyncio.start_unix_server(self._converse, sock=listener)

    def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._conversations) >= _CONVERSATIONS:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer))
        self._conversations.add(task)
        task.add_done_callback(self._conversations.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            try:
                async with asyncio.timeout(_REQUEST_SECONDS):
                    method, path, body = await _request(reader)
            except Refused as refused:
                status, document = refused.status, {"error": str(refused)}
            except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                status, document = 400, {"error": "the request is incomplete or too long"}
            else:
                working = asyncio.ensure_future(self.handle(method, path, body))
                hanging_up = asyncio.ensure_future(reader.read(1))
                try:
                    await asyncio.wait((working, hanging_up), return_when=asyncio.FIRST_COMPLETED)
                    if not working.done():
                        return
                    status, document = working.result()
                finally:
                    for task in (working, hanging_up):
                        task.cancel()
                    await asyncio.gather(working, hanging_up, return_exceptions=True)
            text = json.dumps(document).encode() + b"\n"
            head = f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(text)}\r\nconnection: close\r\n\r\n".encode() + text)
            await writer.drain()


async def _request(reader: asyncio.StreamReader) -> tuple[str, tuple[str, ...], Document]:
    """Method, path and body. Refused (400) if it is not HTTP/1.1 with a JSON object; the stream's limit bounds it."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    match first.split(" "):
        case [method, target, "HTTP/1.1" | "HTTP/1.0"]:
            path = tuple(part for part in target.partition("?")[0].split("/") if part)
        case _:
            raise Refused(400, "this is not HTTP/1.1")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = fields.get("content-length", "0")
    if "transfer-encoding" in fields or not length.isascii() or not length.isdigit() or int(length) > _BODY_LIMIT:
        raise Refused(400, f"expected a content-length of at most {_BODY_LIMIT} bytes")
    text = await reader.readexactly(int(length))
    try:
        body = json.loads(text) if text else {}
    except ValueError as error:
        raise Refused(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refused(400, "the body must be a JSON object")
    return method, path, body


def report(compared: Document) -> str:
    """A comparison as text."""
    seconds, asked = compared["seconds"], compared["requests"]
    older, newer = compared["older"], compared["newer"]
    lines = [
        f"{older['name']} → {newer['name']}: {seconds:g} s"
        + ("" if asked is None else f", {asked} requests")
        + f", {compared['grown_bytes'] / 1024:+,.1f} KiB traced"
    ]
    if older["pid"] != newer["pid"]:
        lines.append(f"Two processes, {older['pid']} and {newer['pid']}: what differs has not grown.")
    for row in compared["lines"]:
        grown, more = row["bytes"] - row["bytes_before"], row["count"] - row["count_before"]
        lines.append(f"{grown / 1024:+12,.1f} KiB {more:+9,} blocks  {row['file']}:{row['line']}")
        lines += [f"{'':35}  by {name}:{line}" for name, line in row["traceback"][1:]]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """`diff OLDER NEWER`: 0, or 1 when a file cannot be read, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m proxy.memory", description="Compares two snapshots.")
    commands = parser.add_subparsers(required=True, metavar="diff")
    diff = commands.add_parser("diff", help="what grew from one snapshot to the other, by line of source")
    diff.add_argument("older", type=Path)
    diff.add_argument("newer", type=Path)
    diff.add_argument("--top", type=int, default=20, help="so many lines (20)")
    asked = parser.parse_args(arguments)
    try:
        compared = compare(read_snapshot(asked.older), read_snapshot(asked.newer), asked.top)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    print(report(compared))
    return 0


if __name__ == "__main__":
    sys.exit(main())
