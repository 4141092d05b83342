"""Answers on their way into the cache: under load they are gathered and stored together, for a commit costs far more
than an entry.

The first answer after a pause is stored at once, so that all workers have it before its caller has; those that follow
within 20 ms share the next transaction, and until then only this worker has them. What a killed worker had gathered is
not stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.clock import Clock

_PAUSE_SECONDS = 0.02
_MOST_BYTES = 4 * 1024 * 1024
"""More than this is not held back."""

Store = Callable[[list[tuple[bytes, bytes]], int | None], None]
"""Stores answers by key, unless the cache was flushed since it had counted so many flushes; None: anyway."""


class WriteBehind:
    """For one event loop."""

    def __init__(self, store: Store, flushes: Callable[[], int], clock: Clock) -> None:
        self._store = store
        self._flushes = flushes
        self._clock = clock
        self._gathered: dict[bytes, bytes] = {}
        self._gathered_bytes = 0
        self._counted = 0
        self._stored_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def get(self, key: bytes) -> bytes | None:
        """An answer that is not stored yet; one that was gathered before a flush is none."""
        body = self._gathered.get(key)
        if body is not None and self._flushes() != self._counted:
            self.forget()
            return None
        return body

    def put(self, key: bytes, body: bytes) -> None:
        """Stores an answer at once, or some milliseconds later."""
        if self._clock.monotonic() - self._stored_at >= _PAUSE_SECONDS:
            self.settle()
            self._store([(key, body)], None)
            self._stored_at = self._clock.monotonic()
            return
        if not self._gathered:
            self._counted = self._flushes()
            self._timer = asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self.settle)
        self._gathered_bytes += len(body)
        self._gathered[key] = body
        if self._gathered_bytes > _MOST_BYTES:
            self.settle()

    def settle(self) -> None:
        """Stores what is gathered, now."""
        gathered = list(self._gathered.items())
        self.forget()
        if gathered:
            self._store(gathered, self._counted)
            self._stored_at = self._clock.monotonic()

    def forget(self) -> None:
        """Drops what is gathered."""
        self._gathered.clear()
        self._gathered_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
