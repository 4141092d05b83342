"""The agent looks at itself."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchdog.clock import SystemClock
from watchdog.system.self_check import look_at_self


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """The soft limit stands just above what is open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(200)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(many) + 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    for descriptor in many:
        os.close(descriptor)


async def test_a_sound_agent_finds_nothing(tmp_path: Path) -> None:
    """It runs in time, reaches itself, starts a process, has descriptors left and can write."""
    check = await look_at_self(SystemClock(), tmp_path)
    assert check.faults == ()
    assert check.trusted


async def test_a_state_directory_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    """The fault says what failed and why."""
    (fault,) = (await look_at_self(SystemClock(), tmp_path / "missing")).faults
    assert fault.startswith("writing to its state directory failed: ")
    assert "No such file or directory" in fault


async def test_used_up_descriptors_are_a_fault(tmp_path: Path, few_descriptors: None) -> None:
    """An agent that can open nothing any more measures its own want."""
    faults = (await look_at_self(SystemClock(), tmp_path)).faults
    assert any("file descriptors are used" in fault for fault in faults)


async def test_a_late_event_loop_is_a_fault(tmp_path: Path) -> None:
    """Work that blocks the loop makes every measurement late."""
    loop = asyncio.get_running_loop()
    loop.call_later(0.005, time.sleep, 0.7)
    (fault,) = (await look_at_self(SystemClock(), tmp_path)).faults
    assert fault.startswith("its event loop is ")
