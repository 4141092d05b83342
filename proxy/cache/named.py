"""One of the two caches as one worker sees it: what is stored, about to be, and counted but not yet told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from proxy.cache.flights import Flights
from proxy.cache.policy import CacheName
from proxy.cache.storage.behind import WriteBehind
from proxy.cache.storage.edit import Totals
from proxy.cache.storage.entry import Fresh
from proxy.cache.storage.store import CacheStore, Found, Item
from proxy.cache.upkeep.popular import Popularity
from proxy.call import Call
from proxy.clock import Clock
from proxy.errors import ApiError
from proxy.metrics import Metrics
from proxy.settings import CacheLimits
from proxy.shared import Shared, StoreBrokenError, StoreBusyError

MIB = 2**20
_MOST_TOUCHED = 2_000
"""Entries whose hits are told at one time; hits on further ones in the same second are not."""
_NOT_STORED_YET = 0
"""Serial of an answer that is only gathered: no entry has it."""
_WARNING, _CRITICAL = 0.9, 0.95

T = TypeVar("T")


class NamedCache:
    """Never needed for a correct answer: what goes wrong in the store is a miss."""

    def __init__(
        self, name: CacheName, limits: CacheLimits, shared: Shared, state_dir: Path, metrics: Metrics, clock: Clock
    ) -> None:
        """OSError if the flights' file cannot be made in `state_dir`."""
        self.name: CacheName = name
        self.limits = limits
        self.store = CacheStore(shared, name, limits, clock)
        self.behind = WriteBehind(self._store, lambda: self.totals().generation, clock)
        self.flights = Flights(state_dir / f"{name}.flights.lock", clock)
        self.popularity = Popularity(name, limits, shared, clock)
        self._notes = limits.warming.enabled
        self._shared = shared
        self._clock = clock
        self._touched: dict[bytes, tuple[int, float]] = {}
        self._hits = metrics.counter("cache_hits_total", "Answers given from the cache.", ("cache",)).at(name)
        self._misses = metrics.counter(
            "cache_misses_total", "Look-ups in the cache that found nothing.", ("cache",)
        ).at(name)
        self._evictions = metrics.counter(
            "cache_evictions_total", "Entries removed from the cache to make room.", ("cache",)
        ).at(name)
        self._warmed = metrics.counter(
            "cache_warmed_total", "Answers that were fetched before they were asked for.", ("cache",)
        ).at(name)
        self._gauges = {
            gauge: metrics.gauge(gauge, text, ("cache",), combine="max")
            for gauge, text in (
                ("cache_entries", "Entries in the cache."),
                ("cache_max_entries", "Entries that the cache may hold."),
                ("cache_size_bytes", "Bytes that the cache holds."),
                ("cache_max_bytes", "Bytes that the cache may hold."),
                ("cache_hit_rate", "Share of the latest look-ups that hit."),
                ("cache_longest_expired_seconds", "How long an answer is kept past its end."),
            )
        }
        self._damaged = metrics.counter(
            "cache_damaged_total", "Answers in the cache that could not be read.", ("cache",)
        ).at(name)
        self._damage_told = 0
        self._counted = [0, 0]

    def find(self, key: bytes) -> Found | None:
        """What there is under a key, expired or not. Neither counts nor touches."""
        gathered = self.behind.get(key)
        if gathered is not None:
            return Found(gathered, 0.0, -math.inf, _NOT_STORED_YET)
        try:
            return self.store.get(key)
        except StoreBrokenError:
            self._recover()
        except StoreBusyError:
            pass
        return None

    def hit(self, key: bytes) -> None:
        """Counts an answer that was given from here."""
        self._hits.inc()
        self._counted[0] += 1
        touched = self._touched
        known = touched.get(key)
        if known is not None:
            touched[key] = (known[0] + 1, self._clock.wall())
        elif len(touched) < _MOST_TOUCHED:
            touched[key] = (1, self._clock.wall())

    def note(self, key: bytes, call: Call, namespace: str, ttl: float | None) -> None:
        """Counts how often a request is asked, if that matters."""
        if self._notes:
            self.popularity.note(key, call, namespace, ttl)

    def miss(self) -> None:
        """Counts a look-up that found nothing."""
        self._misses.inc()
        self._counted[1] += 1

    def totals(self) -> Totals:
        """Of the whole service."""
        return self.guarded(self.store.totals, Totals())

    def prepare(self) -> None:
        """At the start, and again in case the store was begun anew: makes it ours."""
        self.guarded(self.store.prepare, 0)

    def page(self, after: bytes, limit: int, *, bodies: bool = False) -> list[Item]:
        """The next entries in the order of their keys; none when the store cannot tell."""
        none: list[Item] = []
        return self.guarded(lambda: self.store.page(after, limit, bodies=bodies), none)

    def share(self) -> None:
        """Tells the other workers what this one has counted."""
        (hits, misses), touched = self._counted, self._touched
        if hits or misses:
            self._counted, self._touched = [0, 0], {}
            self.guarded(lambda: self.store.share(hits, misses, touched), None)
        if self._notes:
            self.guarded(self.popularity.share, None)

    def warmed(self) -> None:
        """Counts an answer that nobody had asked for yet."""
        self._warmed.inc()

    def evicted(self, number: int) -> int:
        """Counts entries that had to go."""
        self._evictions.inc(by=number)
        return number

    def settle(self) -> None:
        """Puts what is gathered and counted into the store, for operators who look or act now."""
        self.behind.settle()
        self.share()

    def refresh(self) -> None:
        """Sets the gauges of what is shared."""
        totals, limits, name = self.totals(), self.limits, self.name
        self._gauges["cache_entries"].set(totals.entries, name)
        self._gauges["cache_max_entries"].set(limits.max_entries, name)
        self._gauges["cache_size_bytes"].set(totals.size_bytes, name)
        self._gauges["cache_max_bytes"].set(limits.max_size_mb * MIB, name)
        if totals.hits + totals.misses:
            self._gauges["cache_hit_rate"].set(totals.hit_rate, name)
        self._gauges["cache_longest_expired_seconds"].set(self.guarded(self.store.longest_expired, 0.0), name)
        if fresh := self.store.damaged - self._damage_told:
            self._damaged.inc(by=fresh)
            self._damage_told += fresh

    def health(self) -> dict[str, Any]:
        """Usage; warning above 90 % and critical above 95 % of a limit."""
        limits, totals = self.limits, self.totals()
        usage = max(totals.size_bytes / (limits.max_size_mb * MIB), totals.entries / limits.max_entries)
        status = "critical" if usage > _CRITICAL else "warning" if usage > _WARNING else "healthy"
        return {
            "status": status if limits.enabled else "disabled",
            "memory_usage_mb": round(totals.size_bytes / MIB, 4),
            "max_memory_mb": limits.max_size_mb,
            "hit_rate": round(totals.hit_rate, 4),
            "entries": totals.entries,
            "max_entries": limits.max_entries,
            "evictions": totals.evictions,
            "flushes": totals.flushes,
            "expired": totals.expired,
        }

    def guarded(self, do: Callable[[], T], otherwise: T) -> T:
        """What the store says, or `otherwise`."""
        try:
            return do()
        except StoreBrokenError:
            self._recover()
        except StoreBusyError:
            pass
        return otherwise

    def insisted(self, do: Callable[[], T], broken: T) -> T:
        """What the store says, `broken` if it had to be begun anew. ApiError 503 when it is busy."""
        try:
            return do()
        except StoreBrokenError:
            self._recover()
            return broken
        except StoreBusyError as error:
            raise ApiError(503, "The cache is busy; try again.", type="server_error", code="cache_busy") from error

    def _recover(self) -> None:
        self._shared.recover()
        self.behind.forget()

    def close(self) -> None:
        """Stores what is gathered, if that can be done now, and gives every lock back."""
        self.settle()
        self.behind.forget()
        self.flights.close()

    def _store(self, answers: Sequence[Fresh], generation: int | None) -> bool:
        try:
            self.evicted(self.store.put_all(answers, generation))
        except StoreBrokenError:
            self._recover()
        except StoreBusyError:
            return False
        return True
