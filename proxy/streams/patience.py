"""Limits the waits of one task with one timer that is seldom set, where a timer for each wait would cost more than it
guards."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Patience:
    """For the waits of one task at a time, one after the other: `with patience.until(limit): await …`.

    `close` when there will be no more."""

    __slots__ = ("_cancelling", "_expired", "_limit", "_loop", "_task", "_timer", "_timer_at")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._limit = 0.0
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._expired = False

    def until(self, limit: float) -> Patience:
        """Ends what is awaited within with TimeoutError at `limit`, on the event loop's clock."""
        if self._timer is None or self._timer_at > limit:
            self._set(limit)
        self._limit = limit
        return self

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task(self._loop)
        assert task is not None
        self._cancelling = task.cancelling()

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._expired:
            self._expired = False
            assert task is not None
            # As in asyncio's own `timeout`: a cancellation by somebody else at the same moment is theirs.
            if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise TimeoutError

    def close(self) -> None:
        """Forgets the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, at: float) -> None:
        self.close()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._due)

    def _due(self) -> None:
        """A wait that began after the timer was set has a later limit."""
        self._timer = None
        if self._task is None:
            return
        if self._loop.time() < self._limit:
            self._set(self._limit)
        else:
            self._expired = True
            self._task.cancel()
