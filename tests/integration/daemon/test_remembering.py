"""An agent that cannot write what it must remember says so past the outbox, once, and is fit again when it can."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from watchdog.clock import SystemClock
from watchdog.core.routing import Notice
from watchdog.errors import StoreError
from watchdog.remembering import TOLD_AGAIN_SECONDS, Remembering
from watchdog.store.database import Database
from watchdog.store.facts import Facts
from watchdog.store.reserve import Reserve


class Later(SystemClock):
    """The real time, and as much later as a test wants."""

    offset = 0.0

    def now(self) -> float:
        return super().now() + self.offset

    def wall(self) -> float:
        return super().wall() + self.offset


class Failing(Database):
    """A database whose disk can be taken away."""

    broken = False

    def _commit(self) -> None:
        if self.broken:
            raise StoreError(f"{self.path}: cannot be written: disk full", hint="is the disk full?")
        super()._commit()


class Agent:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Later()
        self.database = Failing(directory / "proxywatch.db")
        self.told: list[Notice] = []
        self.remembering = self.born()

    def born(self) -> Remembering:
        """A new life over the same directories."""
        facts, reserve = Facts(self.database), Reserve(self.directory)
        return Remembering(facts, reserve, self.clock, self.directory, self._tell)

    async def _tell(self, notice: Notice) -> None:
        self.told.append(notice)

    async def after(self, seconds: float) -> bool:
        """Tries after that time; whether it is fit then."""
        self.clock.offset += seconds
        await self.remembering.try_it()
        return self.remembering.fit(self.clock.now())


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    agent.database.close()


async def test_a_store_that_fails_for_long_is_told_once(agent: Agent) -> None:
    """Nobody is called for a moment's failure; after half a minute somebody is, once, also over a restart of the agent;
    again after four hours. After a minute it is not fit, and with the first write it is."""
    assert await agent.after(10)
    agent.database.broken = True
    assert await agent.after(20)
    assert agent.told == []
    assert await agent.after(15)
    assert [dict(notice.labels)["alertname"] for notice in agent.told] == ["AgentMemoryLost"]
    assert "disk full" in agent.told[0].reason
    assert not await agent.after(30)
    agent.remembering = agent.born()
    await agent.after(40)
    assert len(agent.told) == 1
    await agent.after(TOLD_AGAIN_SECONDS)
    assert len(agent.told) == 2
    agent.database.broken = False
    assert await agent.after(10)
    agent.database.broken = True
    await agent.after(40)
    assert len(agent.told) == 3, "another outage is another message"
