"""Observations as a diagnosis makes them, put together by hand: every interval a minute, every figure named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from watchdog.memory.findings import Observation, Reading
from watchdog.system.memory_answers import AgentMemory, Collection, Comparison, GrownLine, Heap, Snapshot, Tracing, Trim

MIB = 1024 * 1024
T0 = 1_700_000_000.0
INTERVAL = 60.0
OWN, LIBRARY = ("/srv/app/cache.py", 41), ("/srv/app/.venv/lib/python3.11/site-packages/aiohttp/client.py", 7)
STANDARD = ("/usr/lib/python3.11/asyncio/base_events.py", 436)


def reading(at: float, anon: float, *, heap: float = 0.0, requests: int | None = None, **more: Any) -> Reading:
    """Figures at so many seconds after T0; memory in MiB."""
    size = int(anon * MIB)
    tracing = Tracing(table_bytes=int(more.pop("table", 0) * MIB)) if "table" in more else None
    memory = AgentMemory(
        rss_bytes=size,
        uss_bytes=size,
        anon_bytes=size,
        requests=requests,
        heap=Heap(in_use_bytes=int(heap * MIB)),
        tracing=tracing,
        pid=7,
        **more,
    )
    return Reading(T0 + at, memory)


def compared(
    grown: Sequence[Mapping[tuple[str, int], float]],
    *,
    requests: Sequence[int] | None = None,
    counts: int = 100,
    tracebacks: Mapping[tuple[str, int], tuple[tuple[str, int], ...]] | None = None,
) -> tuple[Comparison, ...]:
    """One comparison an interval: growth by line in KiB, each with `counts` objects a KiB if it grew."""
    found, traced = [], 0
    for number, each in enumerate(grown):
        lines = tuple(
            GrownLine(
                file=file,
                line=line,
                bytes=int(size * 1024) + 10 * MIB,
                count=int(size * counts) + 10_000,
                bytes_before=10 * MIB,
                count_before=10_000,
                traceback=(tracebacks or {}).get((file, line), ((file, line),)),
            )
            for (file, line), size in each.items()
        )
        more = int(sum(each.values()) * 1024)
        at = T0 + 120 + number * INTERVAL
        older = Snapshot(name=f"s{number}", taken_at=at, traced_bytes=traced)
        newer = Snapshot(name=f"s{number + 1}", taken_at=at + INTERVAL, traced_bytes=traced + more)
        traced += more
        asked = None if requests is None else requests[number]
        found.append(Comparison(older=older, newer=newer, seconds=INTERVAL, requests=asked, lines=lines))
    return tuple(found)


def observation(comparisons: tuple[Comparison, ...] = (), **more: Any) -> Observation:
    """A diagnosis of six minutes; quiet and traced readings that do not grow unless others are given."""
    steady = {
        "quiet": (reading(0, 100, requests=0), reading(60, 100, requests=6000)),
        "traced": tuple(reading(120 + number * INTERVAL, 110, requests=6000, table=5.0) for number in range(4)),
        "collected": Collection(collected=10, before_bytes=100 * MIB, after_bytes=100 * MIB),
        "trimmed": Trim(before_bytes=100 * MIB, after_bytes=99 * MIB),
    }
    return Observation("shop", "0", "service:shop", T0, T0 + 360, comparisons=comparisons, **(steady | more))
