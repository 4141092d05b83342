"""The caches of one worker: what the gateway asks of them for each request, and what operators may ask of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from hashlib import blake2b
from typing import Any

from proxy.cache.named import MIB, NamedCache
from proxy.cache.operations import compaction, inspection, transfer
from proxy.cache.plan import Plan
from proxy.cache.policy import KEY_BYTES, CacheName, is_summary, namespace_of, realm, request_key, wish
from proxy.cache.storage.edit import Totals
from proxy.cache.upkeep.care import Care
from proxy.cache.upkeep.pressure import memory_percent
from proxy.cache.upkeep.warming import Ask
from proxy.call import Call
from proxy.clock import Clock
from proxy.metrics import Metrics
from proxy.settings import Settings
from proxy.shared import Shared

_ENTRY_HEADROOM_BYTES = 1024
_MEMO_FROM_BYTES = 2048
"""Bodies of this size or more are known again by their bytes; smaller ones are put in order as quickly."""
_MEMO_SIZE = 2048
_STATUSES = ("disabled", "healthy", "warning", "critical")


def map_bytes(settings: Settings) -> int:
    """How much of the shared store's map the caches may need at their limits."""
    return sum(
        int((limits.max_size_mb * 3 + limits.warming.max_size_mb * 2) * MIB)
        + limits.max_entries * _ENTRY_HEADROOM_BYTES
        for limits in (settings.cache, settings.summary_cache)
    )


class Caches:
    """One per worker. The caches are never needed for a correct answer: what goes wrong in them is a miss."""

    def __init__(
        self,
        settings: Settings,
        shared: Shared,
        metrics: Metrics,
        clock: Clock,
        ask: Ask,
        usable: Callable[[], bool],
        memory: Callable[[], float] = memory_percent,
    ) -> None:
        """`ask` asks the providers on behalf of warming, `usable` tells whether one can be, and `memory` how many per
        cent are in use. OSError if the state directory cannot be written."""
        self._settings = settings
        self._clock = clock
        self._patience = {True: settings.timeouts.first_byte, False: settings.timeouts.answer}
        self._response = NamedCache("response", settings.cache, shared, settings.state_dir, metrics, clock)
        self._summary = NamedCache("summary", settings.summary_cache, shared, settings.state_dir, metrics, clock)
        self.all: dict[CacheName, NamedCache] = {"response": self._response, "summary": self._summary}
        self.care = Care((self._response, self._summary), shared, ask, usable, memory, metrics, clock)
        self._keys: dict[bytes, bytes] = {}
        for cache in self.all.values():
            cache.prepare()

    def plan(self, call: Call, headers: Mapping[str, str]) -> Plan:
        """What is to be done for a request; `headers` are lower-case. ApiError 400 or 403 for a header of ours that
        cannot be followed."""
        settings, wanted = self._settings, wish(headers)
        summary = is_summary(call, wanted, settings.summary_cache)
        cache = self._summary if summary else self._response
        if not cache.limits.enabled or not (wanted.lookup or wanted.store):
            return Plan(None, call, wanted, "", b"", 0.0)
        namespace = namespace_of(call.caller, wanted.namespace, settings.cache)
        key = self._key(call, namespace, cache.limits.version)
        return Plan(cache, call, wanted, namespace, key, self._patience[call.stream])

    def health(self) -> dict[str, Any]:
        """Of the response cache, and by name of each; the status is the worse one's."""
        each = {}
        for name, cache in self.all.items():
            cache.behind.settle()
            each[name] = cache.health()
        own = each["response"]
        worst = max((health["status"] for health in each.values()), key=_STATUSES.index)
        return {**own, "status": worst if own["status"] != "disabled" else "disabled", "caches": each}

    def metrics(self) -> dict[str, Any]:
        """`health`, and how many look-ups its hit rates are over."""
        for cache in self.all.values():
            cache.share()
        health = self.health()
        for name, cache in self.all.items():
            health["caches"][name] |= _counted(cache.totals())
        return health | _counted(self._response.totals())

    def evict(self, *, expired: bool, fraction: float | None) -> dict[str, Any]:
        """Removes expired entries and then a fraction of the others from each cache, in the order of eviction. ApiError
        503 when the store is busy."""
        evicted, entries, size_bytes = 0, 0, 0
        for cache in self.all.values():
            cache.settle()
            store = cache.store
            evicted += cache.evicted(
                cache.insisted(lambda store=store: store.evict(expired=expired, fraction=fraction), 0)  # type: ignore[misc]
            )
            cache.refresh()
            totals = cache.totals()
            entries += totals.entries
            size_bytes += totals.size_bytes
        return {"evicted": evicted, "entries": entries, "memory_usage_mb": round(size_bytes / MIB, 4)}

    def flush(self) -> dict[str, Any]:
        """Empties the caches for all workers. ApiError 503 when the store is busy."""
        flushed = 0
        for cache in self.all.values():
            cache.behind.settle()
            flushed += cache.insisted(cache.store.flush, 0)
            cache.refresh()
        return {"flushed": flushed, "flushes": self._response.totals().flushes}

    async def invalidate(self, selector: inspection.Selector) -> dict[str, Any]:
        """Removes what is selected, for all workers; how many entries, by cache. ApiError 503 if the store is busy."""
        self._settle()
        removed = await inspection.invalidate(self.all, selector, self._clock)
        return {"invalidated": sum(removed.values()), "caches": removed}

    async def compact(self) -> dict[str, Any]:
        """Removes damaged, expired and unused entries; how many of each, and what is left. ApiError 503 if the store is
        busy."""
        self._settle()
        done = await compaction.compact(self.all, self._clock)
        left = [cache.totals() for cache in self.all.values()]
        size = sum(totals.size_bytes for totals in left)
        return {**done, "entries": sum(t.entries for t in left), "memory_usage_mb": round(size / MIB, 4)}

    def exported(self) -> AsyncIterator[bytes]:
        """Both caches as one JSON document, in pieces."""
        self._settle()
        return transfer.exported(self.all, self._clock)

    async def imported(self, parts: AsyncIterator[bytes]) -> dict[str, Any]:
        """Stores what an export holds. ApiError 400 with the place of what is wrong."""
        done = await transfer.imported(self.all, parts, self._clock)
        self.refresh()
        return done

    def keys(self, name: CacheName, after: bytes, limit: int) -> dict[str, Any]:
        """One page of a cache's entries."""
        self._settle()
        return inspection.keys(self.all, name, after, limit, self._clock)

    async def stats(self) -> dict[str, Any]:
        """What a look at every entry tells: of the response cache, and by name of each."""
        self._settle()
        each = {name: await inspection.stats(cache, self._clock) for name, cache in self.all.items()}
        return {**each["response"], "caches": each}

    def config(self) -> dict[str, Any]:
        """The settings that are in force; durations in seconds."""
        return {
            "response": self._settings.cache.model_dump(mode="json"),
            "summary": self._settings.summary_cache.model_dump(mode="json"),
        }

    def tick(self) -> None:
        """Every second: shares with the other workers what this one has counted, and cares for all if that is on it."""
        for cache in self.all.values():
            cache.prepare()
            cache.share()
        self.care.tick()

    def refresh(self) -> None:
        """Sets the gauges of what is shared."""
        for cache in self.all.values():
            cache.refresh()
        self.care.refresh()

    async def close(self) -> None:
        """Stores what is gathered and closes everything."""
        await self.care.close()
        for cache in self.all.values():
            cache.close()

    def _settle(self) -> None:
        for cache in self.all.values():
            cache.settle()

    def _key(self, call: Call, namespace: str, version: str) -> bytes:
        if len(call.body) < _MEMO_FROM_BYTES:
            return request_key(call, namespace, version)
        digest = blake2b(call.body, digest_size=KEY_BYTES)
        digest.update(realm(call.operation, namespace, version, call.passed))
        same = digest.digest()
        known = self._keys.get(same)
        if known is None:
            if len(self._keys) >= _MEMO_SIZE:
                self._keys.clear()
            known = self._keys[same] = request_key(call, namespace, version)
        return known


def _counted(totals: Totals) -> dict[str, int]:
    return {
        "hits": totals.all_hits,
        "misses": totals.all_misses,
        "recent_hits": round(totals.hits),
        "recent_misses": round(totals.misses),
        "invalidated": totals.invalidated,
    }
