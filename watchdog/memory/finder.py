"""Finds leaks and keeps what was found: one diagnosis a process at a time, each a file that can be shown later."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from watchdog.clock import Clock
from watchdog.errors import ActionError, ProbeError
from watchdog.memory.diagnosis import Plan, Tell, observe
from watchdog.memory.findings import Finding, Trend
from watchdog.memory.report import report
from watchdog.memory.source import with_source
from watchdog.memory.verdict import judge
from watchdog.metrics.series import SeriesStore
from watchdog.system.memory_agent import MemoryAgent
from watchdog.units import format_duration

KEPT = 50
"""Findings, the oldest of which go."""
PLOTTED_SECONDS = 6 * 3600.0
PLOTTED_POINTS = 360
ANON_SERIES = ("proxywatch_worker_anon_bytes", "proxywatch_agent_anon_bytes")
_UNFIT = re.compile(r"[^A-Za-z0-9_.-]")
_NAME = re.compile(r"^leak-[A-Za-z0-9_.-]+$")


class LeakFinder:
    """Over the series that tell how a process grew, and the directory in which findings are kept."""

    def __init__(self, series: SeriesStore, clock: Clock, directory: Path) -> None:
        self._series = series
        self._clock = clock
        self.directory = directory.absolute()
        self._under_way: set[tuple[str, str]] = set()

    async def find(
        self, agent: MemoryAgent, plan: Plan, *, suspected: str = "", tell: Tell = lambda _line: None
    ) -> Finding:
        """One diagnosis, kept. Raises ActionError, ProbeError, or OSError where it cannot be written."""
        with self._alone(agent):
            trend = self.trend(agent.service, agent.worker)
            if trend.seconds_to_limit is not None and trend.seconds_to_limit < 2 * plan.seconds:
                left = format_duration(trend.seconds_to_limit)
                raise ActionError(f"its limit is reached in {left}: there is no time to look for what leaks")
            observation = await observe(agent, plan, self._clock, trend=trend, suspected=suspected, tell=tell)
            verdict = await asyncio.to_thread(judge, observation)
            verdict = replace(verdict, places=await asyncio.to_thread(with_source, verdict.places))
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(observation.ended_at))
            name = _UNFIT.sub("_", f"leak-{agent.service}-{agent.worker}-{stamp}")
            finding = Finding(name, observation, verdict, self.history(agent.service, agent.worker))
            await asyncio.to_thread(self._keep, finding)
            return finding

    def trend(self, service: str, worker: str) -> Trend:
        """What the series say of a process now."""
        shapes = self._series.latest("proxywatch_leak_shape", service=service, worker=worker)
        return Trend(
            shape=next((dict(labels).get("shape") for labels, value, _at in shapes if value == 1), None),
            bytes_per_hour=self._latest("proxywatch_leak_slope_bytes_per_hour", service, worker),
            bytes_per_request=self._latest("proxywatch_leak_bytes_per_request", service, worker),
            confidence=self._latest("proxywatch_leak_confidence", service, worker),
            seconds_to_limit=self._latest("proxywatch_leak_seconds_to_limit", service, worker),
        )

    def history(self, service: str, worker: str) -> tuple[tuple[float, float], ...]:
        """The anonymous memory of a process over the last hours, thinned; empty where nobody measures it."""
        now = self._clock.now()
        for name in ANON_SERIES:
            found = self._series.range(name, {"service": service, "worker": worker}, now - PLOTTED_SECONDS, now)
            points = [point for _labels, points in found for point in points]
            if points:
                step = -(-len(points) // PLOTTED_POINTS)
                return tuple(points[::step])
        return ()

    async def fastest(self, agents: Sequence[MemoryAgent]) -> MemoryAgent:
        """Of several processes the one that grows fastest, or holds most where that is not known. Raises ProbeError if
        none of them answers."""
        if len(agents) == 1:
            return agents[0]
        found: list[tuple[float, int, MemoryAgent]] = []
        failure = ProbeError("there is no process to look at")
        for agent in agents:
            try:
                slope = self.trend(agent.service, agent.worker).bytes_per_hour
                found.append((slope or 0.0, (await agent.memory()).anon_bytes, agent))
            except ProbeError as error:
                failure = error
        if not found:
            raise failure
        return max(found, key=lambda one: one[:2])[2]

    def names(self) -> tuple[str, ...]:
        """Of what is kept, newest first."""
        try:
            files = [file for file in self.directory.glob("leak-*.json") if _NAME.match(file.stem)]
            return tuple(file.stem for file in sorted(files, key=lambda one: (one.stat().st_mtime, one.name))[::-1])
        except OSError:
            return ()

    def load(self, name: str) -> Finding:
        """What is kept under a name. KeyError if that is nothing that can be read."""
        if not _NAME.match(name):
            raise KeyError(name)
        try:
            return _FINDING.validate_json((self.directory / f"{name}.json").read_bytes())
        except (OSError, ValidationError) as error:
            raise KeyError(name) from error

    def page(self, name: str) -> Path:
        """Where the report of a finding is."""
        return self.directory / f"{name}.html"

    def _latest(self, name: str, service: str, worker: str) -> float | None:
        found = self._series.latest(name, service=service, worker=worker)
        return found[0][1] if found else None

    @contextlib.contextmanager
    def _alone(self, agent: MemoryAgent) -> Iterator[None]:
        name = (agent.service, agent.worker)
        if name in self._under_way:
            raise ActionError(f"worker {agent.worker} of {agent.service} is being diagnosed already")
        self._under_way.add(name)
        try:
            yield
        finally:
            self._under_way.discard(name)

    def _keep(self, finding: Finding) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        shape = _FINDING.dump_python(finding, mode="json")
        _write(self.directory / f"{finding.name}.json", json.dumps(shape, ensure_ascii=False))
        _write(self.page(finding.name), report(finding))
        for name in self.names()[KEPT:]:
            for file in (self.directory / f"{name}.json", self.page(name)):
                file.unlink(missing_ok=True)


def _write(file: Path, text: str) -> None:
    """Whole or not at all, and only for the agent's own group."""
    fresh = file.with_name(file.name + ".new")
    with fresh.open("w", encoding="utf-8") as out:
        os.fchmod(out.fileno(), 0o640)
        out.write(text)
    fresh.replace(file)


_FINDING: TypeAdapter[Finding] = TypeAdapter(Finding)
