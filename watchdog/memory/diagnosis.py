"""Looks at one live process until it is known what leaks, in bounded time, and leaves it as it was.

Cheap things first: figures and a census, a pause at the process's usual pace, figures and a census again; then what
malloc and the collector give back; only then allocations are traced, a worker's at a share of the connections, with
snapshots at intervals. Tracing ends with the diagnosis, however that ends; should even that fail, the agent's own limit
ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeVar

from watchdog.clock import Clock
from watchdog.errors import ActionError
from watchdog.memory.findings import Observation, Reading, Trend
from watchdog.system.memory_agent import AgentRefusedError, MemoryAgent
from watchdog.system.memory_answers import Census, Collection, Comparison, Resources, Snapshot, Trim
from watchdog.units import format_bytes, format_duration

COMPARED_LINES = 200
SLACK_SECONDS = 120.0
"""The agent's own limit of tracing lies so much beyond the time that is planned."""
STOP_SECONDS = 30.0
MOST_COLLECTED = 2_000_000
"""A collection stops the process for some 0.02 µs for each object, although a child looks for the garbage: with more
objects than these it is left to the process itself."""
SEARCH_SECONDS = 60.0
"""So long a child may look for garbage, before everything is collected at once and the process stopped for that."""
FRAMES_OF_RESOURCES = 8
"""Sockets, tasks, threads and files are made by libraries: with one frame their line would be named, and nobody's who
called it."""

Tell = Callable[[str], None]
"""Takes a line about what is going on."""

T = TypeVar("T")

NO_TREND = Trend()


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how deeply is looked: `duration` seconds of tracing, in which `snapshots` are taken; before it a
    `quiet` phase, None for one as long as the interval between two snapshots."""

    duration: float = 300.0
    snapshots: int = 4
    frames: int = 1
    share: float = 0.1
    quiet: float | None = None

    @property
    def interval(self) -> float:
        """Seconds before each snapshot: the first lets what is young when tracing begins die."""
        return self.duration / self.snapshots

    @property
    def seconds(self) -> float:
        """About how long it takes in all, a niced child's slowness not counted."""
        return self.duration + (self.interval if self.quiet is None else self.quiet)


async def observe(
    agent: MemoryAgent,
    plan: Plan,
    clock: Clock,
    *,
    trend: Trend = NO_TREND,
    suspected: str = "",
    tell: Tell = lambda _line: None,
) -> Observation:
    """One diagnosis; nobody else may look at this process meanwhile. Raises ActionError or ProbeError when the process
    cannot be asked, does not trace, or is replaced by another before the end. Where a resource is suspected,
    who called its maker is traced as well."""
    if suspected:
        plan = replace(plan, frames=max(plan.frames, FRAMES_OF_RESOURCES))
    look = _Look(agent, plan, clock, tell)
    await look.take()
    return look.seen(trend, suspected)


@dataclass(slots=True)
class _Look:
    """What has been seen so far."""

    agent: MemoryAgent
    plan: Plan
    clock: Clock
    tell: Tell
    began_at: float = 0.0
    quiet: list[Reading] = field(default_factory=list)
    traced: list[Reading] = field(default_factory=list)
    censuses: list[Census] = field(default_factory=list)
    trimmed: Trim | None = None
    collected: Collection | None = None
    snapshots: list[Snapshot] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    survivors: Comparison | None = None
    resources: list[Resources] = field(default_factory=list)
    longest_pause_ms: float = 0.0
    notes: list[str] = field(default_factory=list)

    async def take(self) -> None:
        self.began_at = self.clock.now()
        await self._end_what_was_left()
        await self._usual_pace()
        self.trimmed = await self._perhaps("malloc_trim", self.agent.trim())
        self.collected = await self._collect()
        try:
            await self._trace()
        finally:
            await self._stop()

    async def _end_what_was_left(self) -> None:
        """Tracing that goes on although nobody of us is at work was left by a life of ours that was killed."""
        memory = await self.agent.memory()
        if memory.tracing is not None:
            self.tell("allocations are being traced, left over from before: ended")
            await self.agent.stop_tracing()

    async def _usual_pace(self) -> None:
        quiet = self.plan.interval if self.plan.quiet is None else self.plan.quiet
        await self._read(self.quiet)
        await self._census()
        self.tell(f"counted objects; watching untraced for {format_duration(quiet)}")
        await asyncio.sleep(quiet)
        await self._read(self.quiet)
        await self._census()

    async def _trace(self) -> None:
        plan = self.plan
        limit = plan.duration * 2 + SLACK_SECONDS
        share = f" at a share of {plan.share:.0%} of the connections" if self.agent.is_worker else ""
        await self.agent.trace(frames=plan.frames, limit_seconds=limit, share=plan.share)
        self.tell(f"tracing with {plan.frames} frame{'s' if plan.frames > 1 else ''}{share}")
        await self._resources()
        for number in range(1, plan.snapshots + 1):
            await asyncio.sleep(plan.interval)
            await self._read(self.traced)
            snapshot = await self._snapshot()
            self.tell(f"snapshot {number} of {plan.snapshots}: {format_bytes(snapshot.traced_bytes)} traced")
        await self._resources()
        for older, newer in pairwise(self.snapshots):
            self.comparisons.append(await self._compare(older, newer))
        if await self._collect() is not None:
            self.survivors = await self._compare(self.snapshots[0], await self._snapshot())
        self.tell("snapshots compared")

    async def _stop(self) -> None:
        """Whatever happens to us, the process is not left traced. Cancelling waits for it."""
        ending = asyncio.ensure_future(self.agent.stop_tracing(timeout=STOP_SECONDS))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await asyncio.wait([ending])
            if not ending.cancelled():
                ending.exception()
            raise
        except ActionError as error:
            self.notes.append(f"tracing could not be ended and ends by its own limit: {error}")

    async def _read(self, readings: list[Reading]) -> None:
        memory = await self.agent.memory()
        first = self.quiet[0].memory if self.quiet else memory
        if first.pid != memory.pid:
            raise ActionError(f"{self.agent.target} was replaced meanwhile: pid {first.pid} is {memory.pid} now")
        readings.append(Reading(self.clock.now(), memory))

    async def _census(self) -> None:
        census = await self._perhaps("a census", self.agent.census())
        if census is not None:
            self.censuses.append(census)
            self._paused(census.pause_ms)

    async def _collect(self) -> Collection | None:
        if self.quiet[-1].memory.objects > MOST_COLLECTED:
            note = "no full collection was made: with so many objects it would have stopped the process for too long"
            self.notes += [note] if note not in self.notes else []
            return None
        collected = await self._perhaps("a collection", self.agent.collect(search_seconds=SEARCH_SECONDS))
        self._paused(collected.pause_ms if collected else 0.0)
        return collected

    async def _resources(self) -> None:
        resources = await self._perhaps("what it holds besides memory", self.agent.resources())
        if resources is not None:
            self.resources.append(resources)

    async def _snapshot(self) -> Snapshot:
        snapshot = await self.agent.snapshot()
        self.snapshots.append(snapshot)
        self._paused(snapshot.pause_ms)
        return snapshot

    async def _compare(self, older: Snapshot, newer: Snapshot) -> Comparison:
        return await self.agent.compare(older.name, newer.name, top=COMPARED_LINES)

    async def _perhaps(self, what: str, call: Awaitable[T]) -> T | None:
        """What a diagnosis can do without. Not everything can be had everywhere, and less is known then."""
        try:
            return await call
        except AgentRefusedError as error:
            self.notes.append(f"{what} could not be had: {error}")
            return None

    def _paused(self, milliseconds: float) -> None:
        self.longest_pause_ms = max(self.longest_pause_ms, milliseconds)

    def seen(self, trend: Trend, suspected: str) -> Observation:
        return Observation(
            self.agent.service,
            self.agent.worker,
            self.agent.target,
            self.began_at,
            self.clock.now(),
            self.plan.frames,
            tuple(self.quiet),
            tuple(self.traced),
            self.trimmed,
            self.collected,
            tuple(self.censuses),
            tuple(self.comparisons),
            self.survivors,
            tuple(self.resources),
            trend,
            suspected,
            self.longest_pause_ms,
            tuple(self.notes),
        )
