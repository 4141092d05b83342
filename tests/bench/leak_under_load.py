"""A whole diagnosis of a worker that leaks, with a heap of 200 MB, while callers send 200 requests a second.

The proxy is the build of tests/e2e/planted, whose workers have such a heap, leak, and note when their event loop is
late. The same is measured for as long before the diagnosis; the memory that it takes is what the machine has less.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy.memory import head_room
from tests.bench.figures import Aim, BenchError, Figure
from tests.bench.lab import Lab, Proxy, lab, only, until
from tests.bench.machine import MIB, uss_mib
from tests.e2e.planted.planting import build, line
from watchdog.clock import SystemClock
from watchdog.memory import verdict
from watchdog.memory.diagnosis import Plan, observe
from watchdog.memory.findings import Verdict
from watchdog.system.http import HttpClient
from watchdog.system.memory_agent import MemoryAgent

_RATE = 200
_WORKERS = 4
_CASE = "large_heap"
_HEAP_MIB = 180
_EXTRA_PAUSE_MS = 50.0
_P99_RATIO = 2.0
_SETTLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Span:
    """What callers and event loops have seen from one monotonic moment to another; milliseconds."""

    requests: int
    lost: int
    p50: float
    p99: float
    longest_pause: float


class Room:
    """Watches how much memory the machine has left, as long as the block lasts."""

    def __init__(self) -> None:
        self.least = self.before = head_room()
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch)

    def __enter__(self) -> Room:  # noqa: PYI034
        self._watching.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.least = min(self.least, head_room())


def measure(quick: bool) -> Iterator[Figure]:
    """All rows of this part."""
    plan = Plan(duration=20.0 if quick else 60.0, snapshots=4, share=0.1)
    with lab() as place:
        proxy = _leaking(place)
        place.start("callers", [sys.executable, "-m", "tests.bench.steady", str(proxy.port), str(_RATE)])
        until("the heaps are made", lambda: min(map(uss_mib, proxy.workers())) > _HEAP_MIB, 120.0, 0.5)
        time.sleep(_SETTLE_SECONDS)
        quiet = time.monotonic()
        time.sleep(plan.seconds)
        began = time.monotonic()
        with Room() as room:
            found, told_pause = asyncio.run(_diagnosed(place, plan))
        ended = time.monotonic()
        before, during = _span(place, quiet, began), _span(place, began, ended)
        expected = ("planted.py", line(_CASE))
        if not found.places or (Path(found.places[0].file).name, found.places[0].line) != expected:
            raise BenchError(f"expected {expected}, and the diagnosis says: {found.sentence}")
    part = f"A leak is found at {_RATE} requests/s in a heap of 200 MB, {_WORKERS} workers"
    note = f"{before.longest_pause:.1f} before"
    aim = Aim(before.longest_pause + _EXTRA_PAUSE_MS, "figure")
    yield Figure(part, "longest pause of any worker's event loop", during.longest_pause, "ms", aim=aim, note=note)
    yield Figure(part, "longest pause that the agent itself tells", told_pause, "ms")
    note = f"{before.p99:.2f} before; p50 {during.p50:.2f}, {before.p50:.2f} before"
    yield Figure(part, "p99 of the service", during.p99, "ms", aim=Aim(_P99_RATIO * before.p99, "figure"), note=note)
    note = f"of {during.requests}; {before.lost} before"
    yield Figure(part, "requests lost", during.lost, "", aim=Aim(0, "figure"), note=note)
    note = "the head-room at its begin is the aim"
    taken = (room.before - room.least) / MIB
    yield Figure(part, "memory taken at the most", taken, "MiB", aim=Aim(room.before / MIB, "figure"), note=note)
    yield Figure(part, "from its begin to the verdict", ended - began, "s", note=f"confidence {found.confidence:.2f}")


def _leaking(place: Lab) -> Proxy:
    """All workers of the leaking build serve."""
    build(place.root / "build")
    cases = place.root / "cases.json"
    cases.write_text(json.dumps({"cases": {str(slot): _CASE for slot in range(_WORKERS)}, "provider": 0}))
    file, port = place.configure_proxy("proxy", only(place.upstream()), _WORKERS)
    environment = {"PYTHONPATH": str(place.root / "build"), "PLANTED_CASES": str(cases)}
    argv = [sys.executable, "-m", "proxy", "run", "--config", str(file)]
    process = place.start("proxy", argv, port=port, environment=environment)
    proxy = Proxy(file, port, place.root / "proxy" / "run" / "master.sock", process.pid)
    until("all workers serve", lambda: len(proxy.workers()) == _WORKERS, 30.0)
    return proxy


async def _diagnosed(place: Lab, plan: Plan) -> tuple[Verdict, float]:
    """The verdict on worker 0, and its longest pause as its agent tells it."""
    http = HttpClient()
    try:
        agent = MemoryAgent(http, "proxy", "0", place.root / "proxy" / "run" / "worker-0.sock", is_worker=True)
        seen = await observe(agent, plan, SystemClock())
    finally:
        await http.close()
    return verdict.judge(seen), seen.longest_pause_ms


def _span(place: Lab, begin: float, end: float) -> Span:
    rows = [line.split() for line in (place.root / "callers.log").read_text().splitlines()]
    mine = [(float(took), int(status)) for due, took, status in rows if begin <= float(due) < end]
    if not mine:
        raise BenchError("no caller was answered")
    took = sorted(1000 * seconds for seconds, _ in mine)
    late = [
        1000 * float(late)
        for file in place.root.glob("late-*")
        for due, late in (row.split() for row in file.read_text().splitlines())
        if begin <= float(due) < end
    ]
    lost = sum(status != 200 for _, status in mine)
    return Span(len(mine), lost, took[len(took) // 2], took[len(took) * 99 // 100], max(late, default=0.0))
