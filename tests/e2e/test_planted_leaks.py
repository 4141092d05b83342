"""Leaks planted into a build of the proxy are told from what only grows for a while, and each is named."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from planted.planted import CASES
from planted.planting import line
from planted.service import PlantedService
from world import eventually

from watchdog.clock import SystemClock
from watchdog.core.trend import Judgement, Point, Shape, judge
from watchdog.memory import verdict as verdicts
from watchdog.memory.diagnosis import Plan, observe
from watchdog.memory.findings import LeakKind, Trend, Verdict
from watchdog.system.http import HttpClient
from watchdog.system.memory_agent import MemoryAgent

GROWING = {
    "global_list": "memory",
    "unbounded_cache": "memory",
    "closure": "memory",
    "cycle": "memory",
    "task": "tasks",
    "response": "sockets",
    "native": "memory",
    "drip": "memory",
}
"""What grows without end, and what an alarm is about. The other cases are innocent."""
FIGURES = {"memory": 4096.0, "tasks": 1.0, "sockets": 1.0, "threads": 1.0}
"""What is watched, and its grain."""
HOUR = 8.0
"""So many seconds stand for an hour."""
ALARMING = {"memory": 256 * 1024.0, "tasks": 6.0, "sockets": 6.0, "threads": 6.0}
SURE = 0.65
"""Growth within that hour, and confidence, below which the shipped rules wake nobody."""
KINDS = {
    "task": LeakKind.TASKS,
    "response": LeakKind.SOCKETS,
    "native": LeakKind.NATIVE,
}


@dataclass
class Watched:
    """One worker with its case, and what was read of it."""

    case: str
    agent: MemoryAgent
    history: dict[str, list[Point]] = field(default_factory=lambda: {figure: [] for figure in FIGURES})

    async def read(self) -> None:
        memory = await self.agent.memory()
        now = asyncio.get_running_loop().time()
        values = (memory.anon_bytes, memory.tasks, memory.sockets, memory.threads)
        for figure, value in zip(FIGURES, values, strict=True):
            self.history[figure].append(Point(now, value, memory.requests))

    def judged(self) -> dict[str, Judgement]:
        return {figure: judge(points, quantum=FIGURES[figure]) for figure, points in self.history.items()}

    def alarms(self) -> set[str]:
        return {
            figure
            for figure, found in self.judged().items()
            if found.shape is Shape.LEAK and found.slope * HOUR > ALARMING[figure] and found.confidence >= SURE
        }


@pytest.fixture
async def planted() -> AsyncIterator[PlantedService]:
    with tempfile.TemporaryDirectory(prefix="pl-") as name:
        service = PlantedService(Path(name), len(CASES))
        await service.start()
        yield service
        await service.stop()


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


def row(watched: Watched, verdict: Verdict | None) -> str:
    found = watched.judged()
    shape = found[GROWING.get(watched.case, "memory")].shape
    if verdict is None:
        return f"{watched.case:16} {shape:9} {'no alarm'}"
    place = verdict.places[0].where.rpartition("/")[2] if verdict.places else "-"
    grows = GROWING[watched.case]
    hourly = found[grows].slope * HOUR / (2**20 if grows == "memory" else 1)
    return f"{watched.case:16} {shape:9} {hourly:6.1f} {verdict.kind:11} {place:16} {verdict.confidence:.2f}"


async def diagnosed(watched: Watched) -> Verdict:
    """What the diagnosis says, after some seconds of tracing."""
    grows = GROWING[watched.case]
    found = watched.judged()["memory"]
    trend = Trend(shape=found.shape if grows == "memory" else None, bytes_per_hour=found.slope * 3600)
    suspected = "" if grows == "memory" else grows
    plan = Plan(duration=4.0, snapshots=4, share=1.0, quiet=1.0)
    return verdicts.judge(await observe(watched.agent, plan, SystemClock(), trend=trend, suspected=suspected))


def as_expected(all_watched: list[Watched]) -> Callable[[], bool]:
    """Whether those alarm that grow, about what grows, and nobody else."""

    def holds() -> bool:
        for watched in all_watched:
            alarms = watched.alarms()
            grows = GROWING.get(watched.case)
            if (grows not in alarms) if grows else alarms:
                return False
        return True

    return holds


async def test_each_planted_leak_is_named_and_innocents_are_left_alone(
    planted: PlantedService, http: HttpClient, record_property: Callable[[str, object], None]
) -> None:
    """Eight leaks and four innocents, each in a worker of its own under load: the trend raises eight alarms, and the
    diagnosis names the line, or says that it is native; nobody who calls is refused."""
    planted.assign(dict(enumerate(CASES)))
    everybody = [
        Watched(case, MemoryAgent(http, "planted", str(slot), planted.socket(slot), is_worker=True))
        for slot, case in enumerate(CASES)
    ]
    async with planted.load(120, fullest=2.0) as callers:
        await watch(everybody)
        leaking = [watched for watched in everybody if watched.case in GROWING]
        found = await asyncio.gather(*(diagnosed(watched) for watched in leaking))
    verdicts_of = {watched.case: verdict for watched, verdict in zip(leaking, found, strict=True)}
    table = "\n".join(row(watched, verdicts_of.get(watched.case)) for watched in everybody)
    record_property("figure", f"case, shape, MB an hour (compressed), verdict, place, confidence:\n{table}")
    assert callers.failures == []
    assert callers.answered > 500
    assert named(verdicts_of) == {case: expected(case) for case in GROWING}, table


async def watch(everybody: list[Watched]) -> None:
    """Reads until the trends say what is so, at least for what stands for an hour."""
    stop = asyncio.Event()

    async def read() -> None:
        while not stop.is_set():
            await asyncio.gather(*(watched.read() for watched in everybody))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.15):
                    await stop.wait()

    reading = asyncio.create_task(read())
    try:
        await asyncio.sleep(HOUR)
        await eventually("the trends are right", as_expected(everybody), 45, every=1.0)
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *(f"{w.case}: {w.judged()}" for w in everybody)])) from None
    finally:
        stop.set()
        await reading


def named(verdicts_of: Mapping[str, Verdict]) -> dict[str, tuple[str, str, int]]:
    return {
        case: (
            verdict.kind,
            Path(verdict.places[0].file).name if verdict.places else "",
            verdict.places[0].line if verdict.places else 0,
        )
        for case, verdict in verdicts_of.items()
    }


def expected(case: str) -> tuple[str, str, int]:
    kind = KINDS.get(case, LeakKind.PYTHON)
    return (kind, "", 0) if kind is LeakKind.NATIVE else (kind, "planted.py", line(case))
