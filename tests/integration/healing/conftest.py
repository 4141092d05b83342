"""One world a test, closed afterwards with nothing left locked or waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from healing_world import World

from watchdog.playbooks.schema import Playbook

MakeWorld = Callable[..., World]


@pytest.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[MakeWorld]:
    """Makes worlds over the test's directory; one after the other is a restart of the agent."""
    made: list[World] = []

    def make(*playbooks: Playbook, **more: object) -> World:
        made.append(World(tmp_path, *playbooks, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for world in made:
        await world.close()
