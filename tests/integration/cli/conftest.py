"""One small daemon a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from small_daemon import SmallDaemon, small_daemon


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[SmallDaemon]:
    async with small_daemon(tmp_path) as made:
        yield made
