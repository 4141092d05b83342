"""The only place of the proxy that asks for the time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What everything else knows of time."""

    def monotonic(self) -> float:
        """Seconds for durations and deadlines; comparable between processes of one boot."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch, for people and for what must survive a reboot."""
        ...


class SystemClock:
    """The machine's clocks, without a call between: a request asks a dozen times."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class FakeClock:
    """A clock that moves only when told."""

    def __init__(self, at: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._monotonic = at
        self._wall = wall

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> float:
        return self._wall

    def advance(self, seconds: float) -> None:
        """Moves both clocks on."""
        self._monotonic += seconds
        self._wall += seconds
