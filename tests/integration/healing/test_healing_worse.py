"""A repair that makes it worse: it is seen, it ends, a person is told, and it is not tried again before it may be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from healing_world import playbook
from histories_agent import Agent
from histories_machine import WEB, Act, Machine
from virtual_time import VirtualLoop

from watchdog.core.model import IncidentState
from watchdog.core.permission import Limits
from watchdog.core.targets import Target

HOUR = 3600.0
LIMITS = Limits()
"""As they are shipped: 3 an hour and 6 a day, backoff up to 5 minutes."""
RESTORE = playbook(
    {
        "rung": "restart",
        "steps": [{"kind": "restart_service", "timeout": "15s"}],
        "verify": {"hold": "5s", "within": "30s"},
    },
    {"rung": "wait", "verify": {"hold": "5s", "within": "10s"}},
    targets=["service"],
    answers=['alertname=~"Down|Worse"'],
)


class Fragile(Machine):
    """Each repair breaks something more."""

    def _charged(self, target: Target, run: int, disruptive: bool) -> Act:
        assert self.clock is not None
        return Act(self.clock.now(), target, run, RESTORE.name, disruptive, by_person=False)

    def break_by_repairs(self) -> None:
        """From now on."""
        self.judge = self._charged

    async def _becomes(self, act: Act) -> None:
        await asyncio.sleep(2.0)
        self.ledger.append(act)
        self.pids[act.target] += 1
        self.fire(act.target, "Worse")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


def test_what_makes_it_worse_is_not_tried_again_before_it_may_be(tmp_path: Path) -> None:
    """The verification fails, the ladder ends, a person is told of the trouble and of the worse one. It is tried again
    no sooner than the longest backoff after the end, three times an hour and six times a day, and not a second before
    the oldest of them is a day old."""
    machine = Fragile(b"worse", tmp_path)
    machine.break_by_repairs()
    loop = VirtualLoop(machine.time)

    async def two_days() -> Agent:
        agent = Agent(machine, [RESTORE], LIMITS, sync_seconds=60.0)
        await agent.start()
        machine.fire(WEB, "Down")
        await asyncio.sleep(60.0)
        (first,) = agent.desk.unresolved
        assert first.state is IncidentState.ESCALATED
        ((kind, reason),) = agent.told()
        assert kind == "escalated"
        assert "restart" in reason
        assert "Worse still fires" in reason
        assert set(agent.incident(first).heard) == {"Down", "Worse"}
        await asyncio.sleep(25 * HOUR + 600.0)
        assert [kind for kind, _ in agent.told()] == ["escalated"]
        assert agent.guards.acting == {}
        return agent

    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            agent = runner.run(two_days())
            times = [act.at for act in machine.ledger]
            ends = [run.ended_at for number in range(1, 99) if (run := agent.runs.get(number)) is not None]
            runner.run(agent.end())
    finally:
        machine.books.close()
        machine.fate.close()
    assert sum(at < times[0] + 24 * HOUR for at in times) == 6
    assert len(times) > 6
    for later in times[1:]:
        ended = max(end for end in ends if end is not None and end < later)
        assert later - ended >= LIMITS.backoff_max
    for window in LIMITS.budget:
        assert max(sum(0 <= at - start < window.seconds for at in times) for start in times) == window.count
    assert loop.failures == []
