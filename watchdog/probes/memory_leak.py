"""`memory_leak`: whether a worker's own memory really grows, and how fast. The trend only: it judges nothing.

Keeps each worker's anonymous bytes (never RSS, which shared pages swell) over a window and gives, once the window is
long enough, `proxywatch_leak_slope_bytes_per_hour{worker}` (Theil-Sen), `proxywatch_leak_p_value{worker}`
(Mann-Kendall, two-sided) and `proxywatch_leak_window_seconds{worker}`; before that the window's length alone. A new
process starts anew. Fails when the master does not answer, or no worker's memory can be read.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Literal, Self

from pydantic import Field, model_validator

from watchdog.core.model import Measurement, Sample, labels_of
from watchdog.core.trend import mann_kendall, theil_sen
from watchdog.errors import ProbeError
from watchdog.probes import ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration
from watchdog.system import process
from watchdog.system.process import ProcessIdentity
from watchdog.system.proxy_api import ProxyApi

_FEWEST_POINTS = 8
_COMPARED_POINTS = 120
"""A longer history is reduced to so many medians of neighbours: 7,140 pairs cost about two milliseconds."""
_SECONDS_PER_HOUR = 3600.0


class MemoryLeakProbeSettings(ProbeSettings):
    """`service` names a service that has a `proxy`. Windows under half an hour mistake a warm-up for a leak."""

    kind: Literal["memory_leak"]
    interval: Duration = Field(30.0, ge=0.05)
    window: Duration = Field(6 * _SECONDS_PER_HOUR, gt=0)
    """What is older is forgotten."""
    min_window: Duration = Field(0.5 * _SECONDS_PER_HOUR, gt=0)
    """A shorter history gives no trend."""

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        if self.min_window > self.window:
            raise ValueError("min_window is longer than window, so there would never be a trend")
        if self.window > 2880 * self.interval:
            raise ValueError("window holds more than 2880 intervals; take a longer interval or a shorter window")
        return self


@dataclass(frozen=True, slots=True)
class _History:
    identity: ProcessIdentity
    points: deque[tuple[float, float]] = field(default_factory=deque)

    @property
    def length(self) -> float:
        return self.points[-1][0] - self.points[0][0]


@probes.register(MemoryLeakProbeSettings)
class MemoryLeakProbe:
    """See the module."""

    def __init__(self, settings: MemoryLeakProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._context = context
        self._histories: dict[int, _History] = {}

    async def measure(self) -> Measurement:
        api = self._context.proxy_api(self._settings.service)
        status = await api.status(timeout=self._settings.timeout)
        now = self._context.clock.now()
        unreadable = []
        histories: dict[int, _History] = {}
        for worker in status.workers:
            identity = process.identify(worker.pid) if worker.pid is not None else None
            if identity is None or worker.state != "serving":
                continue
            try:
                size = await _anon_bytes(api, worker.slot, identity)
            except (ProbeError, OSError) as error:
                unreadable.append(f"worker {worker.slot}: {error}")
                continue
            histories[worker.slot] = self._continued(worker.slot, identity, now, size)
        self._histories = histories
        if not histories:
            raise ProbeError("; ".join(unreadable) or "no worker serves, so there is no memory to compare")
        samples = [sample for slot, history in histories.items() for sample in self._trend(slot, history)]
        return Measurement(tuple(samples), "; ".join(unreadable))

    def _continued(self, slot: int, identity: ProcessIdentity, now: float, size: int) -> _History:
        history = self._histories.get(slot)
        if history is None or history.identity != identity:
            history = _History(identity)
        history.points.append((now, float(size)))
        while history.length > self._settings.window:
            history.points.popleft()
        return history

    def _trend(self, slot: int, history: _History) -> list[Sample]:
        labels = labels_of(worker=str(slot))
        samples = [Sample("proxywatch_leak_window_seconds", history.length, labels)]
        points = _reduced(list(history.points))
        line = theil_sen(points)
        if history.length >= self._settings.min_window and len(points) >= _FEWEST_POINTS and line is not None:
            slope = line.slope * _SECONDS_PER_HOUR
            samples.append(Sample("proxywatch_leak_slope_bytes_per_hour", slope, labels))
            significance = mann_kendall([value for _, value in points]).p
            samples.append(Sample("proxywatch_leak_p_value", significance, labels))
        return samples


async def _anon_bytes(api: ProxyApi, slot: int, identity: ProcessIdentity) -> int:
    try:
        return process.read_anon_bytes(identity.pid)
    except PermissionError:
        return (await api.worker_memory(slot)).anon_bytes


def _reduced(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= _COMPARED_POINTS:
        return points
    edges = [round(index * len(points) / _COMPARED_POINTS) for index in range(_COMPARED_POINTS + 1)]
    groups = [points[start:end] for start, end in pairwise(edges)]
    return [(median(time for time, _ in group), median(value for _, value in group)) for group in groups]
