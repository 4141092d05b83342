"""What this process's memory looks like, what a collection gives back, and what its threads and tasks are doing."""

from __future__ import annotations

import asyncio
import gc
import io
import sys
import threading
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proxy.clock import Clock

_PAGE = 4096
_YOUNG_OBJECTS = 10_000


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


def settle() -> None:
    """To be called once everything that lives as long as the process is made: collections leave it alone from then on,
    and the youngest objects are looked at less often. A request makes some hundred, which nearly all die by count."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])


def census() -> dict[str, Any]:
    """The footprint and how many objects the collector tracks, settled ones too."""
    return {**asdict(footprint()), "objects": len(gc.get_objects()) + gc.get_freeze_count()}


def collect(clock: Clock) -> dict[str, Any]:
    """A full collection, then malloc's free pages given back to the kernel (glibc's malloc_trim)."""
    import ctypes

    before = footprint().uss_bytes
    began = clock.monotonic()
    collected = gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    pause = clock.monotonic() - began
    return {
        "collected": collected,
        "before_bytes": before,
        "after_bytes": footprint().uss_bytes,
        "pause_ms": round(pause * 1000, 3),
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
