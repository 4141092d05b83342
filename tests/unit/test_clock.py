"""Time that never jumps."""

from __future__ import annotations

import time

import pytest

from watchdog.clock import Clock, FakeClock, SystemClock


def test_the_system_clock_is_steady_and_near_the_wall() -> None:
    """It never goes back, advances as the machine's steady clock does, and starts at the machine's time."""
    clock: Clock = SystemClock()
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    readings = [clock.now() for _ in range(1000)]
    after = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert readings == sorted(readings)
    assert readings[-1] - readings[0] <= after - before + 1e-6
    assert abs(clock.now() - time.time()) < 1.0
    assert abs(clock.wall() - time.time()) < 1.0


def test_the_fake_clock_moves_only_when_told() -> None:
    """It stands still, advances by what it is told, and shows another wall time only when that was set."""
    clock = FakeClock(100.0)
    assert (clock.now(), clock.wall()) == (100.0, 100.0)
    assert clock.advance(2.5) == clock.now() == 102.5
    clock.wall_offset = -3600.0
    assert (clock.now(), clock.wall()) == (102.5, -3497.5)


def test_the_fake_clock_cannot_go_back() -> None:
    """A negative advance is a mistake of the test."""
    with pytest.raises(ValueError, match="cannot go back by 1"):
        FakeClock().advance(-1)
