"""Answers on their way into a cache: under load they are gathered and stored together, for a commit costs far more
than an entry.

The first answer after a pause is stored at once, so that all workers have it before its caller has; those that follow
within 20 ms share the next transaction, and until then only this worker has them. While the store is busy they wait,
within limits. What a killed worker had gathered is not stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from proxy.cache.storage.entry import Fresh
from proxy.clock import Clock

_PAUSE_SECONDS = 0.02
_MOST_BYTES = 4 * 1024 * 1024
"""More than this is not held back."""
_MOST_TRIES = 60

Store = Callable[[Sequence[Fresh], int | None], bool]
"""Stores answers, unless the cache is of another generation by now; None: anyway. False: the store is busy. Does not
raise."""
Then = Callable[[], None]
"""Called when an answer is stored, or will not be."""


class WriteBehind:
    """For one event loop."""

    def __init__(self, store: Store, generation: Callable[[], int], clock: Clock) -> None:
        self._store = store
        self._generation = generation
        self._clock = clock
        self._gathered: dict[bytes, tuple[Fresh, Then | None]] = {}
        self._gathered_bytes = 0
        self._counted = 0
        self._tries = 0
        self._stored_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def get(self, key: bytes) -> bytes | None:
        """An answer that is not stored yet; one that was gathered before a flush is none."""
        if not self._gathered:
            return None
        gathered = self._gathered.get(key)
        if gathered is None:
            return None
        if self._generation() != self._counted:
            self.forget()
            return None
        return gathered[0].body

    def put(self, fresh: Fresh, then: Then | None = None) -> None:
        """Stores an answer at once, or some milliseconds later."""
        if self._clock.monotonic() - self._stored_at >= _PAUSE_SECONDS:
            self.settle()
            if self._store([fresh], None):
                self._stored_at = self._clock.monotonic()
                if then is not None:
                    then()
                return
        if not self._gathered:
            self._counted = self._generation()
        self._gathered_bytes += len(fresh.body)
        self._gathered[fresh.key] = (fresh, then)
        self._wait()
        if self._gathered_bytes > _MOST_BYTES and not self.settle():
            self.forget()

    def settle(self) -> bool:
        """Stores what is gathered, now; False if that has to wait."""
        gathered = list(self._gathered.values())
        if not gathered:
            return True
        if not self._store([fresh for fresh, _ in gathered], self._counted):
            return False
        self._clear()
        self._stored_at = self._clock.monotonic()
        _tell(gathered)
        return True

    def forget(self) -> None:
        """Drops what is gathered."""
        gathered = list(self._gathered.values())
        self._clear()
        _tell(gathered)

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._try)

    def _try(self) -> None:
        self._timer = None
        if self.settle():
            return
        self._tries += 1
        if self._tries < _MOST_TRIES:
            self._wait()
        else:
            self.forget()

    def _clear(self) -> None:
        self._tries = 0
        self._gathered.clear()
        self._gathered_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _tell(gathered: Sequence[tuple[Fresh, Then | None]]) -> None:
    for _, then in gathered:
        if then is not None:
            then()
