"""kill -9 of the agent at every instant of a run: it goes on as if nothing had been, and no effect happens twice."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import pytest
from healing_world import World

from watchdog.core.model import IncidentState

HARNESS = Path(__file__).with_name("healing_harness.py")
KILLED = -signal.SIGKILL
Harness = subprocess.Popen[str]
Live = Callable[[str, str, str, int], Awaitable[int]]


@pytest.fixture(scope="module")
def harnesses() -> Iterator[Queue[Harness]]:
    """Three of them, so that three lives go on at a time; importing everything once is dear enough."""
    free: Queue[Harness] = Queue()
    processes = [
        subprocess.Popen([sys.executable, str(HARNESS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        free.put(process)
    yield free
    for process in processes:
        with process:
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """Where lives are lived: in memory where there is such a place, for `kill -9` loses nothing that was written."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
def live(place: Path, harnesses: Queue[Harness]) -> Live:
    """Lives one agent's life: scenario, folder, mode, commit; its exit status."""

    def ask(line: str) -> int:
        process = harnesses.get()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line)
        process.stdin.flush()
        status = int(process.stdout.readline())
        harnesses.put(process)
        return status

    async def run(scenario: str, folder: str, mode: str = "after", at: int = 0) -> int:
        return await asyncio.to_thread(ask, f"{scenario} {place / folder} {mode} {at}\n")

    return run


@dataclass(frozen=True)
class End:
    """How the world looks when all is over; what may be of several incidents is in their order."""

    effects: tuple[str, ...]
    states: tuple[IncidentState, ...]
    told: tuple[str, ...]
    runs: tuple[str, ...]


async def end_of(directory: Path) -> End:
    """Reads it back, and asserts what must hold for every end: no run and no effect is left open, no lock is held."""
    world = World(directory)
    try:
        incidents = sorted(world.desk.incidents.latest(), key=lambda incident: incident.id)
        runs = [run for number in range(1, 9) if (run := world.runs.get(number)) is not None]
        assert world.runs.unended() == []
        assert all(e.outcome is not None for run in runs for e in world.runs.effects_of(run.id))
        assert all((i.resolved_at is not None) is (i.state is IncidentState.RESOLVED) for i in incidents)
        told = tuple(kind for kind, _ in world.told())
        return End(tuple(world.effects), tuple(i.state for i in incidents), told, tuple(run.state for run in runs))
    finally:
        await world.close()


RESOLVED = IncidentState.RESOLVED
ENDS = {
    "heals": End(("one", "two-a", "two-b"), (RESOLVED,), ("healed",), ("verified",)),
    "exhausts": End(("one", "two"), (IncidentState.ESCALATED,), ("escalated",), ("exhausted",)),
    "mitigates": End(("one",), (IncidentState.VERIFYING,), ("escalated",), ("mitigated",)),
    "granted": End(("one",), (RESOLVED,), ("approval", "healed"), ("verified",)),
    "denied": End((), (IncidentState.ESCALATED,), ("approval", "escalated"), ("refused",)),
    "cancelled": End(("one",), (IncidentState.OPEN,), ("opened",), ("cancelled",)),
    "back": End(("one", "undo-a", "undo-b", "two"), (RESOLVED,), ("healed",), ("verified",)),
    "retried": End(("one",), (RESOLVED,), ("healed",), ("verified",)),
    "resorts": End(("one", "last"), (RESOLVED,), ("escalated", "healed"), ("exhausted", "verified")),
    "by-time": End(("one", "two"), (), (), ("verified",)),
    "suppressed": End(("db", "web"), (RESOLVED, RESOLVED), ("healed", "healed"), ("verified", "verified")),
}


async def every_kill(live: Live, scenario: str) -> AsyncIterator[str]:
    """Kills one life before each of its commits and before each of its effects, lets a second one follow; the folders,
    until one life is too short to be killed."""
    for mode in ("before", "after"):
        at, alive = 1, True
        while alive:
            numbers = range(at, at + 3)
            folders = [f"{scenario}-{mode}-{number}" for number in numbers]
            firsts = await asyncio.gather(*(live(scenario, f, mode, n) for f, n in zip(folders, numbers, strict=True)))
            assert set(firsts) <= {0, KILLED}, (folders, firsts)
            alive = 0 not in firsts
            killed = [folder for folder, status in zip(folders, firsts, strict=True) if status == KILLED]
            assert set(await asyncio.gather(*(live(scenario, folder, "after", 0) for folder in killed))) <= {0}, killed
            for folder in killed:
                yield folder
            at += 3


@pytest.mark.parametrize("scenario", sorted(ENDS.keys() - {"exhausts"}))
async def test_every_kill_ends_as_if_there_had_been_none(place: Path, live: Live, scenario: str) -> None:
    """Killed before or after any commit of a whole incident, the agent that follows ends it the same way: each effect
    exactly once and in order, each notice exactly once, nothing left open."""
    assert await live(scenario, "whole", "after", 0) == 0
    assert await end_of(place / "whole") == ENDS[scenario]
    kills = [folder async for folder in every_kill(live, scenario)]
    ends = {folder: await end_of(place / folder) for folder in kills}
    assert {folder: end for folder, end in ends.items() if end != ENDS[scenario]} == {}
    assert len(kills) >= 9, len(kills)


async def test_what_cannot_be_recognised_is_never_repeated(place: Path, live: Live) -> None:
    """Without a `check` an effect whose record the kill took happens at most once; the ladder goes on, and the person
    is told exactly once all the same."""
    assert await live("exhausts", "whole", "after", 0) == 0
    assert await end_of(place / "whole") == ENDS["exhausts"]
    kills = [folder async for folder in every_kill(live, "exhausts")]
    for folder in kills:
        end = await end_of(place / folder)
        assert len(set(end.effects)) == len(end.effects), (folder, end)
        assert set(end.effects) <= {"one", "two"}, (folder, end)
        assert (end.states, end.told, end.runs) == ((IncidentState.ESCALATED,), ("escalated",), ("exhausted",)), folder
    assert len(kills) >= 9, len(kills)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_step_that_kills_the_agent(place: Path, live: Live, when: str) -> None:
    """The agent dies by its own step, before or after the effect: the next one sees what happened, for the step ends
    with the agent."""
    assert await live(when, when, "after", 0) == KILLED
    assert await live(when, when, "after", 0) == 0
    end = await end_of(place / when)
    assert end == End(("one",), (RESOLVED,), ("healed",), ("verified",))
