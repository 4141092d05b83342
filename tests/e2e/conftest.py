"""One installation a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from world import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Not started: a test lays its own configuration over the shipped one first."""
    made = World(tmp_path)
    await made.inbox.open()
    yield made
    await made.stop()
    await made.inbox.close()
