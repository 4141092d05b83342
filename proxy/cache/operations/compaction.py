"""A look at every entry, body included, that removes what only takes up room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from proxy.cache.named import NamedCache
from proxy.cache.operations.inspection import pages
from proxy.cache.policy import CacheName
from proxy.cache.storage.store import Item
from proxy.clock import Clock

_UNUSED_AFTER = 0.5
"""An answer that nobody has asked for again in this share of its life will hardly be asked for in the rest of it."""


@dataclass(slots=True)
class Compacted:
    """How many entries were looked at, and how many went, each for the first reason that held."""

    checked: int = 0
    damaged: int = 0
    """Whose body is missing or cannot be inflated."""
    expired: int = 0
    unused: int = 0


async def compact(caches: Mapping[CacheName, NamedCache], clock: Clock) -> dict[str, int]:
    """Removes damaged, expired and unused entries for all workers. ApiError 503 if the store is busy."""
    done = Compacted()
    for cache in caches.values():
        async for items in pages(cache, bodies=True):
            done.checked += len(items)
            now = clock.wall()
            chosen = {item.key: item.entry.serial for item in items if _goes(item, now, done)}
            if chosen:
                cache.insisted(lambda: cache.store.remove(chosen), 0)  # noqa: B023
        cache.refresh()
    return asdict(done)


def _goes(item: Item, now: float, done: Compacted) -> bool:
    entry = item.entry
    if _is_damaged(item):
        done.damaged += 1
    elif entry.expires <= now:
        done.expired += 1
    elif not entry.hits and now - entry.stored > _UNUSED_AFTER * (entry.expires - entry.stored):
        done.unused += 1
    else:
        return False
    return True


def _is_damaged(item: Item) -> bool:
    if item.kept is None:
        return True
    try:
        item.entry.body(item.kept)
    except ValueError:
        return True
    return False
