"""`memory_leak`: whether what a process holds really grows, how fast, and what the growth looks like. It judges nobody.

Of each memory agent of the service (an llm-proxy's workers, or the sockets in `memory_agents`), with the labels
`worker` and `target`: `proxywatch_agent_anon_bytes` (never RSS, which shared pages swell) and
`proxywatch_leak_window_seconds`; once that is long enough `proxywatch_leak_shape{shape}` (1 for the one in force, 0 for
the others: leak, warm_up, plateau, saw_tooth, step, traffic, noise, unknown), `_confidence` (0 to 1),
`_slope_bytes_per_hour`, `_p_value`, `_bytes_per_request` where requests are counted, and for a leak `_seconds_to_limit`
with `_seconds_to_limit_earliest`: until the limit of its control group or the machine's memory. The same for
descriptors, sockets, tasks and threads: `proxywatch_resource_leak_shape{resource,shape}`, `_confidence`,
`_slope_per_hour`, and for descriptors that leak `_seconds_to_limit`. The methods stand in `watchdog.core.trend`.

A new process starts anew; histories outlive the agent. While a process is traced its memory is the trace's and is not
looked at. Fails when the master does not answer, or no process tells its figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from watchdog.core.model import Labels, Measurement, Sample, labels_of
from watchdog.core.trend import Judgement, Point, Shape, judge, until
from watchdog.errors import ProbeError, StoreError
from watchdog.probes import ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration
from watchdog.system import process
from watchdog.system.memory_agent import MemoryAgent
from watchdog.system.memory_answers import AgentMemory
from watchdog.system.memory_group import memory_room
from watchdog.system.process import ProcessIdentity

_GRAIN_BYTES = 256 * 1024
"""Memory comes and goes in arenas and pages; growth below a few grains within the window says nothing."""
_RESOURCES = ("descriptors", "sockets", "tasks", "threads")
_JUDGEMENTS_PER_WINDOW = 60
"""A judgement takes some milliseconds; so many while a history doubles are enough."""
_SAVES_PER_WINDOW = 36
_POINTS_SAVED = 240
_SECONDS_PER_HOUR = 3600.0


class MemoryLeakProbeSettings(ProbeSettings):
    """`service` names a service that has a `proxy` or `memory_agents`. A window under half an hour mistakes a slow
    warm-up for a leak."""

    kind: Literal["memory_leak"]
    interval: Duration = Field(30.0, ge=0.05)
    window: Duration = Field(6 * _SECONDS_PER_HOUR, gt=0)
    """What is older is forgotten."""
    min_window: Duration = Field(0.5 * _SECONDS_PER_HOUR, gt=0)
    """A shorter history is not judged."""

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        if self.min_window > self.window:
            raise ValueError("min_window is longer than window, so there would never be a trend")
        if self.window > 2880 * self.interval:
            raise ValueError("window holds more than 2880 intervals; take a longer interval or a shorter window")
        return self


@dataclass(frozen=True, slots=True)
class _Reading:
    time: float
    requests: int | None
    anon: int
    resources: tuple[int, ...]


@dataclass(slots=True)
class _History:
    """The readings of one process, and what was made of them at `judged_at`."""

    identity: ProcessIdentity
    readings: list[_Reading] = field(default_factory=list)
    memory: Judgement | None = None
    resources: dict[str, Judgement] = field(default_factory=dict)
    judged_at: float = 0.0

    @property
    def length(self) -> float:
        return self.readings[-1].time - self.readings[0].time if self.readings else 0.0

    def add(self, reading: _Reading, window: float) -> None:
        if self.readings and reading.time <= self.readings[-1].time:
            self.readings.clear()  # kept from before the clock was set back
        self.readings.append(reading)
        while self.length > window:
            del self.readings[0]


@probes.register(MemoryLeakProbeSettings)
class MemoryLeakProbe:
    """See the module."""

    def __init__(self, settings: MemoryLeakProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._context = context
        self._histories: dict[str, _History] | None = None
        self._saved_at = context.clock.now()

    async def measure(self) -> Measurement:
        agents = await self._context.memory_agents(self._settings.service)
        before = self._remembered() if self._histories is None else self._histories
        answers = await asyncio.gather(*(_figures(agent, self._settings.timeout) for agent in agents))
        now = self._context.clock.now()
        unreadable = [f"worker {agent.worker}: {error}" for agent, error in answers if isinstance(error, str)]
        samples: list[Sample] = []
        self._histories = {}
        for agent, figures in answers:
            if isinstance(figures, str):
                if agent.worker in before:
                    self._histories[agent.worker] = before[agent.worker]
                continue
            history = _continued(before.get(agent.worker), figures)
            self._histories[agent.worker] = history
            if figures.tracing is None:
                resources = tuple(getattr(figures, name) for name in _RESOURCES)
                reading = _Reading(now, figures.requests, figures.anon_bytes, resources)
                history.add(reading, self._settings.window)
            labels = _labels(agent)
            samples.append(Sample("proxywatch_agent_anon_bytes", figures.anon_bytes, labels))
            samples.append(Sample("proxywatch_leak_window_seconds", history.length, labels))
            if history.length >= self._settings.min_window:
                await self._judge(history, now)
                samples += _told(history, labels, figures)
        if len(unreadable) == len(agents):
            raise ProbeError("; ".join(unreadable) or "no worker serves, so there is no memory to compare")
        samples += _outlooks(self._histories, answers)
        self._save(now)
        return Measurement(tuple(samples), "; ".join(unreadable))

    async def _judge(self, history: _History, now: float) -> None:
        """Anew when the history has grown by enough, one figure at a time, with room for others in between."""
        if history.memory is not None and now - history.judged_at < history.length / _JUDGEMENTS_PER_WINDOW:
            return
        history.judged_at = now
        readings = history.readings
        memory = [Point(one.time, float(one.anon), one.requests) for one in readings]
        history.memory = judge(memory, quantum=_GRAIN_BYTES)
        for place, resource in enumerate(_RESOURCES):
            await asyncio.sleep(0)
            points = [Point(one.time, float(one.resources[place]), one.requests) for one in readings]
            history.resources[resource] = judge(points)

    def _remembered(self) -> dict[str, _History]:
        """What was saved by an agent before this one, as far as the machine has not been booted since."""
        if self._context.memory is None:
            return {}
        try:
            saved = self._context.memory.get(self._fact)
        except StoreError:
            return {}  # the store says so itself; a history begins anew
        return _loaded(saved) if saved and saved.get("boot") == process.boot_id() else {}

    def _save(self, now: float) -> None:
        if self._context.memory is None or now - self._saved_at < self._settings.window / _SAVES_PER_WINDOW:
            return
        self._saved_at = now
        content = {"boot": process.boot_id(), "processes": _saved(self._histories or {})}
        try:
            self._context.memory.put(self._fact, content)
        except StoreError as error:
            raise ProbeError(f"the histories cannot be saved: {error}") from error

    @property
    def _fact(self) -> str:
        return f"memory_leak:{self._context.name}"


async def _figures(agent: MemoryAgent, timeout: float) -> tuple[MemoryAgent, AgentMemory | str]:
    """What it tells, or why it told nothing."""
    try:
        return agent, await agent.memory(timeout=timeout)
    except (ProbeError, OSError) as error:
        return agent, str(error)


def _labels(agent: MemoryAgent) -> Labels:
    return labels_of(worker=agent.worker, target=agent.target)


def _continued(history: _History | None, figures: AgentMemory) -> _History:
    identity = process.identify(figures.pid) or ProcessIdentity(figures.pid, 0)
    return history if history is not None and history.identity == identity else _History(identity)


def _told(history: _History, labels: Labels, figures: AgentMemory) -> Iterator[Sample]:
    """What was made of a history, as samples."""
    memory = history.memory
    assert memory is not None, "judged just before"
    yield from _shapes("proxywatch_leak", memory, labels)
    if memory.shape is not Shape.UNKNOWN:
        yield Sample("proxywatch_leak_slope_bytes_per_hour", memory.slope * _SECONDS_PER_HOUR, labels)
        yield Sample("proxywatch_leak_p_value", memory.p, labels)
    if memory.per_request is not None:
        yield Sample("proxywatch_leak_bytes_per_request", memory.per_request, labels)
    for place, (resource, found) in enumerate(history.resources.items()):
        named = labels_of(dict(labels), resource=resource)
        yield from _shapes("proxywatch_resource_leak", found, named)
        if found.shape is not Shape.UNKNOWN:
            yield Sample("proxywatch_resource_leak_slope_per_hour", found.slope * _SECONDS_PER_HOUR, named)
        limit = figures.descriptors_limit if resource == "descriptors" else None
        outlook = until(limit, history.readings[-1].resources[place], found) if limit is not None else None
        if outlook is not None:
            yield Sample("proxywatch_resource_leak_seconds_to_limit", outlook.expected, named)


def _shapes(name: str, found: Judgement, labels: Labels) -> Iterator[Sample]:
    for shape in Shape:
        yield Sample(f"{name}_shape", float(shape is found.shape), labels_of(dict(labels), shape=shape.value))
    yield Sample(f"{name}_confidence", found.confidence, labels)


def _outlooks(histories: dict[str, _History], answers: list[tuple[MemoryAgent, AgentMemory | str]]) -> Iterator[Sample]:
    """Until memory is short, for each process that leaks. Those that leak at once share what is left."""
    leaks = [
        (agent, figures, judgement)
        for agent, figures in answers
        if not isinstance(figures, str)
        and (judgement := histories[agent.worker].memory) is not None
        and judgement.shape is Shape.LEAK
    ]
    together = sum(judgement.slope for _, _, judgement in leaks)
    for agent, figures, judgement in leaks:
        try:
            room = memory_room(figures.pid)
        except OSError:
            continue  # it has ended since it answered
        own = float(figures.anon_bytes)
        outlook = None if room is None else until(own + room * judgement.slope / together, own, judgement)
        if outlook is not None:
            labels = _labels(agent)
            yield Sample("proxywatch_leak_seconds_to_limit", outlook.expected, labels)
            yield Sample("proxywatch_leak_seconds_to_limit_earliest", outlook.earliest, labels)


def _saved(histories: dict[str, _History]) -> dict[str, Any]:
    return {
        worker: {
            "pid": history.identity.pid,
            "start_ticks": history.identity.start_ticks,
            "readings": [
                [one.time, one.requests, one.anon, *one.resources]
                for one in history.readings[:: 1 + len(history.readings) // _POINTS_SAVED]
            ],
        }
        for worker, history in histories.items()
    }


def _loaded(saved: Any) -> dict[str, _History]:
    return {
        worker: _History(
            ProcessIdentity(one["pid"], one["start_ticks"]),
            [_Reading(time, requests, anon, tuple(rest)) for time, requests, anon, *rest in one["readings"]],
        )
        for worker, one in saved["processes"].items()
    }
