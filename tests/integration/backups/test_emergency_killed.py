"""kill -9 of the agent at every step of the last resort: the next one goes on at that step, and the world ends up the
same."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import pytest
import yaml
from emergency_world import EmergencyWorld, Site, last_resort

from watchdog.core.model import IncidentState, Outcome

HARNESS = Path(__file__).with_name("emergency_harness.py")
KILLED = -signal.SIGKILL
Live = Callable[[Path, str, int], Awaitable[int]]


@pytest.fixture(scope="module")
def harnesses() -> Iterator[Queue[subprocess.Popen[str]]]:
    """Three, so that three lives go on at a time."""
    free: Queue[subprocess.Popen[str]] = Queue()
    made = [
        subprocess.Popen([sys.executable, str(HARNESS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in made:
        free.put(process)
    yield free
    for process in made:
        with process:
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture
def live(harnesses: Queue[subprocess.Popen[str]]) -> Live:
    """One life: directory, what is being written, at which step; its exit status."""

    def ask(line: str) -> int:
        process = harnesses.get()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line)
        process.stdin.flush()
        status = int(process.stdout.readline())
        harnesses.put(process)
        return status

    async def run(directory: Path, point: str = "intent", at: int = 0) -> int:
        return await asyncio.to_thread(ask, f"{directory} {point} {at}\n")

    return run


@dataclass(frozen=True)
class End:
    """How the world looks when all is over."""

    state: IncidentState
    runs: tuple[str, ...]
    started: tuple[str, ...]
    done: tuple[str, ...]
    configuration: tuple[str, ...]
    rows: int
    told: tuple[str, ...]


GOOD = End(
    IncidentState.RESOLVED,
    ("verified",),
    ("minimal",),
    tuple(step["kind"] for step in last_resort().model_dump()["ladder"][0]["steps"]),
    ("port",),
    200,
    ("healed",),
)


async def end_of(site: Site) -> End:
    """Reads it back; nothing may be left open, and nothing half-made."""
    world = EmergencyWorld(site, last_resort())
    try:
        (incident,) = world.desk.incidents.latest()
        runs = world.runs.of_incident(incident.id)
        effects = [effect for run in runs for effect in world.runs.effects_of(run.id)]
        assert world.runs.unended() == []
        assert [effect for effect in effects if effect.outcome is None] == []
        left = [p.name for d in (site.config.parent, site.database.parent) for p in d.iterdir() if p.name[0] == "."]
        assert left == []
        return End(
            incident.state,
            tuple(run.state for run in runs),
            tuple(site.started()),
            tuple(effect.action for effect in effects if effect.outcome is Outcome.DONE),
            tuple(yaml.safe_load(site.config.read_text())),
            site.rows(),
            tuple(kind for kind, _ in world.told()),
        )
    finally:
        await world.service.stop()
        await world.close()


async def killed_and_ended(live: Live, directory: Path, point: str, at: int) -> End:
    """Killed there, lived again."""
    directory.mkdir()
    site = Site(directory)
    site.make()
    await site.archive()
    site.ruin()
    assert await live(directory, point, at) == KILLED, (directory / "lives.log").read_text()
    assert await live(directory, "intent", 0) == 0, (directory / "lives.log").read_text()
    return await end_of(site)


@pytest.mark.parametrize("point", ["intent", "result"])
async def test_killed_at_any_step_it_ends_as_if_it_had_not_been(tmp_path: Path, live: Live, point: str) -> None:
    """Before the effect or after it, and before anybody wrote so: the service serves again from the same archive, was
    started once, and every step was done once."""
    steps = range(1, len(GOOD.done) + 1)
    ends = await asyncio.gather(*(killed_and_ended(live, tmp_path / f"{point}-{step}", point, step) for step in steps))
    wrong = {GOOD.done[step - 1]: end for step, end in zip(steps, ends, strict=True) if end != GOOD}
    assert wrong == {}
