"""One small daemon a test; it is built where the command line's tests are, which need the same."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))

from small_daemon import SmallDaemon, small_daemon


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[SmallDaemon]:
    async with small_daemon(tmp_path) as made:
        yield made
