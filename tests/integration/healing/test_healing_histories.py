"""Laws over random histories of the whole: the real desk, triage, guards, runner and store, in virtual time.

`PROXYWATCH_HISTORIES` multiplies how many histories are tried, and has them drawn anew in each run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from histories_driver import Driver
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from mortal import Killed
from virtual_time import VirtualLoop

TIMES_MORE = int(os.environ.get("PROXYWATCH_HISTORIES", "0"))
HISTORIES = 60 * max(1, TIMES_MORE)
MEMORY = Path("/dev/shm")
tried = {"histories": 0, "effects": 0, "deaths": 0}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of agents have much to say, and nobody would read it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


@settings(
    max_examples=HISTORIES,
    deadline=None,
    derandomize=not TIMES_MORE,
    database=None,
    # A shorter history would be another one, with other dice, and each takes a tenth of a second.
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.binary(min_size=30, max_size=100))
def histories(history: bytes) -> None:
    """One history."""
    directory = Path(tempfile.mkdtemp(prefix="history-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        driver = Driver(history, directory)
        loop = VirtualLoop(driver.machine.time)
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(driver.live(note))
        finally:
            driver.close()
        tried["histories"] += 1
        tried["effects"] += len(driver.machine.ledger)
        tried["deaths"] += driver.deaths
        assert driver.judge.broken == []
        assert driver.forgotten == []
        assert [failure for failure in loop.failures if not isinstance(failure, Killed)] == []
    finally:
        shutil.rmtree(directory)


def test_the_laws_hold_in_every_history() -> None:
    """Whatever happens in whatever order, and wherever the agent is killed: no budget is exceeded, two never work on
    one thing, nothing begins while paused, a remote fault restarts nothing, backoff only grows until sustained health,
    every alert ends healed, suppressed or told, and whoever starts over the same books knows the same."""
    histories()
    print(f"{tried['histories']} histories with {tried['effects']} effects and {tried['deaths']} deaths")
    assert tried["histories"] >= HISTORIES
    assert tried["effects"] >= 2 * HISTORIES
