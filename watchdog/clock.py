"""The only place that asks for the time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What everything else knows of time."""

    def now(self) -> float:
        """Seconds since the epoch on a steady scale: it never jumps while the process lives, and counts suspend."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch as the machine's clock shows them now; for people, never for durations."""
        ...


class SystemClock:
    """Anchors the wall clock once and then advances by CLOCK_BOOTTIME, so that a clock step moves no deadline."""

    def __init__(self) -> None:
        self._anchor = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> float:
        return self._anchor + time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> float:
        return time.time()


class FakeClock:
    """A clock that moves only when told; for tests and for replay."""

    def __init__(self, at: float = 1_700_000_000.0) -> None:
        self._now = at
        self.wall_offset = 0.0

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + self.wall_offset

    def advance(self, seconds: float) -> float:
        """Moves on by `seconds` (never back) and returns the new time."""
        if seconds < 0:
            raise ValueError(f"a steady clock cannot go back by {-seconds} s")
        self._now += seconds
        return self._now
