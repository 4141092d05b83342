"""What operators may see of the caches' entries, and which they may have removed: never a prompt or an answer."""

from __future__ import annotations

import asyncio
import fnmatch
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.cache.named import MIB, NamedCache
from proxy.cache.policy import KEY_BYTES, CacheName
from proxy.cache.storage.store import Item
from proxy.clock import Clock

_PAGE = 500
SHORT_BYTES = 8
_MODELS = 50


@dataclass(frozen=True, slots=True)
class Selector:
    """Which entries: those that match all that is given. Patterns are the shell's: `*`, `?`, `[…]`."""

    cache: CacheName | None = None
    model: str | None = None
    namespace: str | None = None
    operation: str | None = None
    older_than: float | None = None
    """Seconds since they were stored."""

    def compiled(self) -> Matcher:
        """To be asked of many entries."""
        patterns = (self.model, self.namespace, self.operation)
        model, namespace, operation = (
            None if text is None else re.compile(fnmatch.translate(text)) for text in patterns
        )
        return Matcher(model, namespace, operation, self.older_than)


@dataclass(frozen=True, slots=True)
class Matcher:
    """A selector ready for use."""

    model: re.Pattern[str] | None
    namespace: re.Pattern[str] | None
    operation: re.Pattern[str] | None
    older_than: float | None

    def matches(self, item: Item, now: float) -> bool:
        """Whether an entry is selected."""
        if self.older_than is not None and now - item.entry.stored <= self.older_than:
            return False
        about = item.entry.about
        return (
            (self.model is None or self.model.match(about.model) is not None)
            and (self.namespace is None or _names(self.namespace, about.namespace))
            and (self.operation is None or self.operation.match(about.operation) is not None)
        )


def _names(pattern: re.Pattern[str], namespace: str) -> bool:
    """A namespace is known by all of its name, by the key's id, and by the name that its callers give."""
    names = {namespace, namespace.partition(":")[2], namespace.rpartition("#")[2].removeprefix("shared:")}
    return any(pattern.match(name) for name in names)


async def invalidate(caches: Mapping[CacheName, NamedCache], selector: Selector, clock: Clock) -> dict[str, int]:
    """Removes the entries that are selected, for all workers; how many, by cache. ApiError 503 if the store is busy."""
    matcher, removed = selector.compiled(), dict[str, int]()
    for name, cache in caches.items():
        if selector.cache not in (None, name):
            continue
        removed[name] = 0
        async for items in pages(cache):
            now = clock.wall()
            chosen = {item.key: item.entry.serial for item in items if matcher.matches(item, now)}
            if chosen:
                removed[name] += cache.insisted(lambda: cache.store.remove(chosen), 0)  # noqa: B023
        cache.refresh()
    return removed


def keys(
    caches: Mapping[CacheName, NamedCache], name: CacheName, after: bytes, limit: int, clock: Clock
) -> dict[str, Any]:
    """One page of a cache's entries in the order of their ids; `next` begins the following page."""
    cache, now = caches[name], clock.wall()
    items = cache.page(after, limit)
    return {
        "cache": name,
        "keys": [_told(item, now) for item in items],
        "next": items[-1].key.hex() if len(items) == limit else None,
        "entries": cache.totals().entries,
    }


def _told(item: Item, now: float) -> dict[str, Any]:
    entry = item.entry
    about = entry.about
    return {
        "id": item.key[:SHORT_BYTES].hex(),
        "key": item.key.hex(),
        "operation": about.operation,
        "model": about.model,
        "namespace": about.namespace,
        "version": about.version,
        "age_seconds": round(max(0.0, now - entry.stored), 3),
        "expires_in_seconds": round(entry.expires - now, 3),
        "size_bytes": entry.size,
        "compressed": entry.compressed,
        "hits": entry.hits,
    }


async def stats(cache: NamedCache, clock: Clock) -> dict[str, Any]:
    """What a look at every entry of a cache tells; ages in seconds, None without entries."""
    now, number, size, hits, expired, compressed = clock.wall(), 0, 0, 0, 0, 0
    oldest: float | None = None
    newest: float | None = None
    models: Counter[str] = Counter()
    async for items in pages(cache):
        for item in items:
            entry = item.entry
            number, size, hits = number + 1, size + entry.size, hits + entry.hits
            expired += entry.expires <= now
            compressed += entry.compressed
            oldest = entry.stored if oldest is None else min(oldest, entry.stored)
            newest = entry.stored if newest is None else max(newest, entry.stored)
            models[entry.about.model] += 1
    return {
        **cache.health(),
        "oldest_entry_age_seconds": None if oldest is None else round(max(0.0, now - oldest), 3),
        "newest_entry_age_seconds": None if newest is None else round(max(0.0, now - newest), 3),
        "mean_entry_bytes": round(size / number) if number else None,
        "expired_entries": expired,
        "compressed_entries": compressed,
        "hits_of_entries": hits,
        "models": dict(models.most_common(_MODELS)),
        "in_hand_mb": round(cache.store.hot.size_bytes / MIB, 4),
    }


async def pages(cache: NamedCache, *, bodies: bool = False) -> AsyncIterator[list[Item]]:
    """All entries, with pauses for the worker's other work."""
    after = b""
    while items := cache.page(after, _PAGE, bodies=bodies):
        after = items[-1].key
        yield items
        await asyncio.sleep(0)


def cursor(text: str) -> bytes:
    """Where a page begins: after the entry with this key or id. ValueError if it is neither."""
    key = bytes.fromhex(text)
    if len(key) not in (SHORT_BYTES, KEY_BYTES):
        raise ValueError(f"expected {2 * KEY_BYTES} hexadecimal digits")
    return key + b"\xff" * (KEY_BYTES - len(key))
