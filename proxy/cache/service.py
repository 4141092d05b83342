"""The caches of one worker: what the gateway asks of them for each request, and what operators may ask of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from proxy.cache.behind import WriteBehind
from proxy.cache.policy import Directives, directives, request_key
from proxy.cache.store import Hit, ResponseCache, Totals
from proxy.call import Call
from proxy.clock import Clock
from proxy.dialects.contract import Whole
from proxy.errors import ApiError
from proxy.metrics import Metrics
from proxy.settings import Settings
from proxy.shared import Shared, StoreBrokenError, StoreBusyError

_MIB = 2**20
_ENTRY_HEADROOM_BYTES = 1024
_NEITHER = Directives(lookup=False, store=False)

T = TypeVar("T")


def map_bytes(settings: Settings) -> int:
    """How much of the shared store's map the caches may need at their limits."""
    limits = settings.cache
    return int(limits.max_size_mb * 3 * _MIB) + limits.max_entries * _ENTRY_HEADROOM_BYTES


class Plan:
    """What the caches do for one request: `find`, then after a miss `store` or nothing, and `release` at its very end,
    whatever has become of it."""

    __slots__ = ("_allowed", "_caches", "_key", "outcome")

    outcome: Literal["hit", "miss", "bypass"]
    """What the caller and the account are told; final after `find`."""

    def __init__(self, caches: Caches, allowed: Directives, key: bytes) -> None:
        self._caches = caches
        self._allowed = allowed
        self._key = key
        self.outcome = "bypass"

    @property
    def keeps(self) -> bool:
        """Whether `store` would store anything, so that a stream is worth putting together."""
        return self._allowed.store

    async def find(self) -> Hit | None:
        """The answer, or None: then a provider is to be asked."""
        if not self._allowed.lookup:
            return None
        hit = self._caches.find(self._key)
        self.outcome = "miss" if hit is None else "hit"
        return hit

    def store(self, whole: Whole) -> None:
        """Keeps a good answer if it may be kept."""
        if self._allowed.store and whole.storable:
            self._caches.keep(self._key, whole.body)

    def release(self) -> None:
        """Tells whoever waits for this request's answer that none will come any more. May be called twice."""


class Caches:
    """One per worker. The cache is never needed for a correct answer: what goes wrong in it is a miss."""

    def __init__(self, settings: Settings, shared: Shared, metrics: Metrics, clock: Clock) -> None:
        self._limits = settings.cache
        self._shared = shared
        self._metrics = metrics
        self._hits = metrics.counter("cache_hits_total", "Answers given from the cache.")
        self._misses = metrics.counter("cache_misses_total", "Look-ups in the cache that found nothing.")
        self._evictions = metrics.counter("cache_evictions_total", "Entries removed from the cache to make room.")
        self._gauges = {
            name: metrics.gauge(name, text, combine="max")
            for name, text in (
                ("cache_entries", "Entries in the cache."),
                ("cache_max_entries", "Entries that the cache may hold."),
                ("cache_size_bytes", "Bytes that the cache holds."),
                ("cache_max_bytes", "Bytes that the cache may hold."),
            )
        }
        self._counted = [0, 0]
        self._cache = ResponseCache(shared, self._limits, clock)
        self._behind = WriteBehind(self._store, lambda: self._totals().flushes, clock)

    def plan(self, call: Call, headers: Mapping[str, str]) -> Plan:
        """What is to be done for a request; `headers` are lower-case."""
        if not self._limits.enabled:
            return Plan(self, _NEITHER, b"")
        allowed = directives(headers.get("cache-control", ""))
        return Plan(self, allowed, request_key(call.fields, call.caller) if allowed.lookup or allowed.store else b"")

    def find(self, key: bytes) -> Hit | None:
        """Looks up and counts."""
        gathered = self._behind.get(key)
        hit = self._guarded(lambda: self._cache.get(key), None) if gathered is None else Hit(gathered, 0.0)
        (self._misses if hit is None else self._hits).inc()
        self._counted[hit is None] += 1
        return hit

    def keep(self, key: bytes, body: bytes) -> None:
        """Stores an answer, now or in some milliseconds."""
        self._behind.put(key, body)

    def health(self) -> dict[str, Any]:
        """Usage of the whole service's cache; warning above 90 % and critical above 95 % of a limit."""
        self._behind.settle()
        limits, totals = self._limits, self._totals()
        usage = max(totals.size_bytes / (limits.max_size_mb * _MIB), totals.entries / limits.max_entries)
        status = "critical" if usage > 0.95 else "warning" if usage > 0.9 else "healthy"
        return {
            "status": status if limits.enabled else "disabled",
            "memory_usage_mb": round(totals.size_bytes / _MIB, 4),
            "max_memory_mb": limits.max_size_mb,
            "hit_rate": round(totals.hit_rate, 4),
            "entries": totals.entries,
            "max_entries": limits.max_entries,
            "evictions": totals.evictions,
            "flushes": totals.flushes,
            "expired": totals.expired,
        }

    def metrics(self) -> dict[str, Any]:
        """`health` and how many look-ups its hit rate is over."""
        health, totals = self.health(), self._totals()
        return health | {"recent_hits": round(totals.hits), "recent_misses": round(totals.misses)}

    def evict(self, *, expired: bool, fraction: float | None) -> dict[str, Any]:
        """Removes expired entries and then a fraction of the others, least recently used first. ApiError 503 when the
        store is busy."""
        self._behind.settle()
        evicted = self._insisted(lambda: self._cache.evict(expired=expired, fraction=fraction), 0)
        self._evictions.inc(by=evicted)
        self.refresh()
        totals = self._totals()
        return {"evicted": evicted, "entries": totals.entries, "memory_usage_mb": round(totals.size_bytes / _MIB, 4)}

    def flush(self) -> dict[str, Any]:
        """Empties the cache for all workers. ApiError 503 when the store is busy."""
        self._behind.settle()
        flushed = self._insisted(self._cache.flush, 0)
        self.refresh()
        return {"flushed": flushed, "flushes": self._totals().flushes}

    def tick(self) -> None:
        """Every second: shares with the other workers what this one has counted."""
        hits, misses = self._counted
        if hits or misses:
            self._guarded(lambda: self._cache.count(hits, misses), None)
            self._counted = [0, 0]

    def refresh(self) -> None:
        """Sets the gauges of what is shared."""
        totals, limits = self._totals(), self._limits
        self._gauges["cache_entries"].set(totals.entries)
        self._gauges["cache_max_entries"].set(limits.max_entries)
        self._gauges["cache_size_bytes"].set(totals.size_bytes)
        self._gauges["cache_max_bytes"].set(limits.max_size_mb * _MIB)
        if totals.hits + totals.misses:
            rate = self._metrics.gauge("cache_hit_rate", "Share of the latest look-ups that hit.", combine="max")
            rate.set(totals.hit_rate)

    def close(self) -> None:
        """Stores what is gathered."""
        self._behind.settle()

    def _store(self, answers: list[tuple[bytes, bytes]], flushes: int | None) -> None:
        self._evictions.inc(by=self._guarded(lambda: self._cache.put_all(answers, flushes), 0))

    def _totals(self) -> Totals:
        return self._guarded(self._cache.totals, Totals())

    def _guarded(self, do: Callable[[], T], otherwise: T) -> T:
        """What the cache says, or `otherwise`."""
        try:
            return do()
        except StoreBrokenError:
            self._shared.recover()
        except StoreBusyError:
            pass
        return otherwise

    def _insisted(self, do: Callable[[], T], broken: T) -> T:
        try:
            return do()
        except StoreBrokenError:
            self._shared.recover()
            return broken
        except StoreBusyError as error:
            raise ApiError(503, "The cache is busy; try again.", type="server_error", code="cache_busy") from error
