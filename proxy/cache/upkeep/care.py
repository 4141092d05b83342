"""What one worker does every second for the caches of all: makes room when memory runs short, and has them warmed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from proxy.cache.named import NamedCache
from proxy.cache.upkeep.warming import STORE_TROUBLE, Ask, Paused, Record, Warmer, pause, paused, told, want_round
from proxy.clock import Clock
from proxy.metrics import Metrics
from proxy.shared import Shared

log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
"""How often memory is looked at while there is enough of it."""
_DOWN_TO = 0.1
"""Short of an emergency so much of a cache's limits is left: less would relieve nobody."""
_BATCHES = 10
"""In an emergency, between two looks at the event loop's other work."""


class Care:
    """Of one worker; only the one that is the keeper acts for all."""

    def __init__(
        self,
        caches: Sequence[NamedCache],
        shared: Shared,
        ask: Ask,
        usable: Callable[[], bool],
        memory: Callable[[], float],
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        """`memory` tells how many per cent of it are in use."""
        self._caches = caches
        self._shared = shared
        self._usable = usable
        self._memory = memory
        self._clock = clock
        self._enabled_gauge = metrics.gauge(
            "cache_warming_enabled", "1: popular answers are fetched before they expire.", combine="max"
        )
        self._paused_gauge = metrics.gauge(
            "cache_warming_paused", "1: an operator has paused the warming.", combine="max"
        )
        self._warmers = {cache.name: Warmer(cache, shared, ask, self._may_warm, clock) for cache in caches}
        self._round: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")
        self._percent = 0.0

    def tick(self) -> None:
        """Every second."""
        keeper = self._caches[0].flights.keeper()
        self._relieve(keeper=keeper)
        if keeper and self._round is None and self._may_warm():
            due = [warmer for warmer in self._warmers.values() if self._caches[0].guarded(warmer.due, False)]
            if due:
                self._round = asyncio.create_task(self._rounds(due))

    async def close(self) -> None:
        """Ends a round that is under way."""
        if self._round is not None:
            self._round.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._round

    def pause(self, seconds: float | None = None) -> dict[str, Any]:
        """No warming from now on, for the whole service, for so long or (None) until `resume`. ApiError 503 when the
        store is busy."""
        cache, now = self._caches[0], self._clock.wall()
        wanted = Paused(now, None if seconds is None else now + seconds)
        cache.insisted(lambda: pause(self._shared, wanted), None)
        return self.warming()

    def warm(self) -> dict[str, Any]:
        """A round is due now, if warming is enabled; the worker that cares for the caches begins it within a second.
        ApiError 503 when the store is busy."""
        cache, now = self._caches[0], self._clock.wall()
        cache.insisted(lambda: want_round(self._shared, now), None)
        return self.warming()

    def resume(self) -> dict[str, Any]:
        """Warming goes on. ApiError 503 when the store is busy."""
        self._caches[0].insisted(lambda: pause(self._shared, None), None)
        return self.warming()

    def warming(self) -> dict[str, Any]:
        """What warming has done, and what keeps it from doing more."""
        each = {}
        for cache in self._caches:
            each[cache.name] = told(cache, cache.guarded(self._warmers[cache.name].record, Record()))
        pause = self._paused()
        reasons = ["operator"] if pause is not None else []
        if self._short(self._memory()):
            reasons.append("memory_pressure")
        if not self._usable():
            reasons.append("no_usable_provider")
        return {
            "enabled": any(one["enabled"] for one in each.values()),
            "paused": pause is not None,
            "paused_since": None if pause is None else pause.since,
            "paused_until": None if pause is None else pause.until,
            "held_by": reasons,
            **{name: sum(one[name] for one in each.values()) for name in ("rounds", "warmed", "failed", "fresh")},
            "caches": each,
        }

    def _may_warm(self) -> bool:
        if self._short(self._percent) or not self._usable():
            return False
        return self._paused() is None

    def _paused(self) -> Paused | None:
        return self._caches[0].guarded(lambda: paused(self._shared, self._clock.wall()), None)

    def refresh(self) -> None:
        """Sets the gauges."""
        self._enabled_gauge.set(float(any(w.enabled for w in self._warmers.values())))
        self._paused_gauge.set(float(self._paused() is not None))

    def _short(self, percent: float) -> bool:
        return any(
            cache.limits.memory_pressure.enabled and percent > cache.limits.memory_pressure.threshold
            for cache in self._caches
        )

    async def _rounds(self, due: Sequence[Warmer]) -> None:
        try:
            for warmer in due:
                await warmer.round()
        except STORE_TROUBLE as error:
            log.info("warming: the shared store: %s", error)
        finally:
            self._round = None

    def _relieve(self, *, keeper: bool) -> None:
        now = self._clock.monotonic()
        if now - self._looked_at < _LOOK_SECONDS and not self._short(self._percent):
            return
        self._looked_at = now
        self._percent = self._memory()
        for cache in self._caches:
            limits = cache.limits.memory_pressure
            if not limits.enabled or self._percent <= limits.threshold:
                continue
            cache.store.hot.clear()
            if not keeper:
                continue
            removed = self._batch(cache, limits.eviction_batch_size, _DOWN_TO)
            for _ in range(_BATCHES):
                if self._percent <= limits.emergency:
                    break
                more = self._batch(cache, limits.eviction_batch_size, 0.0)
                removed += more
                if not more:
                    break
                self._percent = self._memory()
            if removed:
                log.info("memory is at %.0f %%: %d entries of cache %s given up", self._percent, removed, cache.name)

    def _batch(self, cache: NamedCache, size: int, down_to: float) -> int:
        return cache.evicted(cache.guarded(lambda: cache.store.relieve(size, down_to=down_to), 0))
