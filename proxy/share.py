"""How much of the service's traffic this worker takes: its turn like any other, or for a while a share it was told.

What all workers have answered is read from their figures, so that the share holds whatever the load is, and whether
callers keep their connections or not. Both sides forget within some seconds, so that a time in which this worker had
to serve alone is not made up for by another in which it serves nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_LOOK_SECONDS = 0.5
_KEPT = 0.9
"""Of what was counted, at each look: a memory of some five seconds."""


class Share:
    """`answered` tells how many requests the whole service has answered; it may fall when a worker is replaced."""

    def __init__(self, answered: Callable[[], float], workers: int) -> None:
        self.fraction = 1.0
        """Of the service's requests, while `reduced`."""
        self.reduced = False
        self._answered = answered
        self._workers = workers
        self._seen = 0.0
        self._all = 0.0
        self._own = 0.0
        self._holds: Callable[[], bool] = lambda: False
        self.connections: Callable[[], int] = lambda: 0
        """How many are open here."""
        self._looking: asyncio.TimerHandle | None = None

    def reduce(self, fraction: float, holds: Callable[[], bool]) -> None:
        """Takes `fraction` of the service's requests (0: only what nobody else takes) as long as `holds` says so.
        Nothing changes for a worker that has no others beside it, or whose part would be no smaller."""
        self.restore()
        if self._workers == 1 or fraction >= 1 / self._workers:
            return
        self.fraction, self.reduced, self._holds = fraction, True, holds
        self._all = self._own = 0.0
        self._seen = self._answered()
        self._later()

    def restore(self) -> None:
        """Takes its turn again. Doing it twice is fine."""
        self.fraction, self.reduced = 1.0, False
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def count(self) -> None:
        """One more request has begun here."""
        self._own += 1.0

    @property
    def full(self) -> bool:
        """Whether this worker has had its share for now: the others should have the next connection."""
        return self.reduced and self._own >= self.fraction * self._all

    @property
    def ends_connections(self) -> bool:
        """Whether a connection should end with the answer that is being sent, so that its caller comes to another
        worker. The last one is kept: callers who keep theirs would not come back, and a share is not nothing."""
        return self.full and (self.fraction == 0.0 or self.connections() > 1)

    def _later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        if not self._holds():
            self.restore()
            return
        now = self._answered()
        self._all = self._all * _KEPT + max(0.0, now - self._seen)
        self._own *= _KEPT
        self._seen = now
        self._later()
