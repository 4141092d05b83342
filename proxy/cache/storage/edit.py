"""One transaction on one cache: changes that keep entries, bodies, both indexes and the totals in step.

Databases, each with the cache's prefix: `entries` key → `Entry`; `bodies` key → the answer as kept; `recency` (rank,
last used, key) is the order of eviction and `expiry` (expires, key) that of the end of life.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lmdb

from proxy.cache.policy import CacheName
from proxy.cache.storage.entry import RANKED_BYTES, STAMP_BYTES, Entry, by_rank, by_time, unpack
from proxy.shared import Shared

_TOTALS = struct.Struct("<QQQQQQQQQQQdd")
PREFIX: dict[CacheName, str] = {"response": "cache_", "summary": "summary_"}


@dataclass(slots=True)
class Totals:
    """Of the whole service since the files were made; `hits` and `misses` are a fading memory."""

    size_bytes: int = 0
    entries: int = 0
    evictions: int = 0
    expired: int = 0
    flushes: int = 0
    invalidated: int = 0
    generation: int = 0
    """Changes whenever answers that are on their way must not be stored any more."""
    serial: int = 0
    """Of the newest entry."""
    floor: int = 0
    """The rank of the last entry that was evicted: what LFU ages by (LFU-DA; Arlitt et al., 2000)."""
    all_hits: int = 0
    all_misses: int = 0
    hits: float = 0.0
    misses: float = 0.0

    @property
    def hit_rate(self) -> float:
        """0 to 1; 0 without a look-up."""
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else 0.0


class Databases:
    """The handles of one cache; to be asked for anew after the store has been begun anew."""

    __slots__ = ("bodies", "entries", "expiry", "meta", "order", "totals_key")

    def __init__(self, shared: Shared, name: CacheName) -> None:
        prefix = PREFIX[name]
        self.entries = shared.database(f"{prefix}entries")
        self.bodies = shared.database(f"{prefix}bodies")
        self.order = shared.database(f"{prefix}recency")
        self.expiry = shared.database(f"{prefix}expiry")
        self.meta = shared.database("meta")
        self.totals_key = f"cache totals {name}".encode()


class Edit:
    """A write transaction's view. Whoever changes anything calls `save` at the end."""

    def __init__(self, databases: Databases, txn: lmdb.Transaction[bytes]) -> None:
        self._txn = txn
        self._databases = databases
        self.totals = load(txn, databases)

    def above(self, coming_bytes: int, max_bytes: int, max_entries: int, share: float) -> bool:
        """Whether the cache with one more entry would be fuller than this share of its limits."""
        totals = self.totals
        return totals.size_bytes + coming_bytes > max_bytes * share or totals.entries + 1 > max_entries * share

    def fuller(self, max_bytes: int, max_entries: int, share: float) -> bool:
        """Whether the cache is fuller than this share of its limits as it is."""
        return self.totals.size_bytes > max_bytes * share or self.totals.entries > max_entries * share

    def find(self, key: bytes) -> Entry | None:
        """The entry under a key."""
        raw = self._txn.get(key, db=self._databases.entries)
        return None if raw is None else unpack(raw)

    def add(self, key: bytes, entry: Entry, kept: bytes) -> None:
        """Adds an entry under a key that has none."""
        databases, put = self._databases, self._txn.put
        put(key, entry.pack(), db=databases.entries)
        put(key, kept, db=databases.bodies)
        put(by_rank(entry.rank, entry.used) + key, b"", db=databases.order)
        put(by_time(entry.expires) + key, b"", db=databases.expiry)
        self.totals.size_bytes += entry.size
        self.totals.entries += 1

    def remove(self, key: bytes) -> Entry | None:
        """Removes and returns an entry."""
        entry = self.find(key)
        if entry is None:
            return None
        databases, delete = self._databases, self._txn.delete
        delete(key, db=databases.entries)
        delete(key, db=databases.bodies)
        delete(by_rank(entry.rank, entry.used) + key, db=databases.order)
        delete(by_time(entry.expires) + key, db=databases.expiry)
        self.totals.size_bytes -= entry.size
        self.totals.entries -= 1
        return entry

    def touch(self, key: bytes, hits: int, used: float, *, ranked: bool) -> None:
        """Tells an entry of its hits: it moves back in the order of eviction, under LFU by how often it was used."""
        entry = self.find(key)
        if entry is None:
            return
        hits = min(entry.hits + hits, 2**32 - 1)
        moved = entry._replace(
            hits=hits, used=max(used, entry.used), rank=self.totals.floor + 1 + hits if ranked else 0
        )
        order = self._databases.order
        self._txn.delete(by_rank(entry.rank, entry.used) + key, db=order)
        self._txn.put(by_rank(moved.rank, moved.used) + key, b"", db=order)
        self._txn.put(key, moved.pack(), db=self._databases.entries)

    def evict(self, limit: int) -> int:
        """Removes the first in the order of eviction; says how many."""
        return self._remove_first(self._databases.order, RANKED_BYTES, limit, None, self._evicted)

    def expire(self, now: float, limit: int | None) -> int:
        """Removes what has expired, the earliest first; says how much."""
        removed = self._remove_first(self._databases.expiry, STAMP_BYTES, limit, by_time(now), None)
        self.totals.expired += removed
        return removed

    def clear(self) -> None:
        """Removes everything, without a look at it."""
        databases = self._databases
        for database in (databases.entries, databases.bodies, databases.order, databases.expiry):
            self._txn.drop(database, delete=False)
        self.totals.size_bytes = self.totals.entries = self.totals.floor = 0

    def save(self) -> None:
        """Writes the totals."""
        totals = self.totals
        packed = _TOTALS.pack(
            totals.size_bytes,
            totals.entries,
            totals.evictions,
            totals.expired,
            totals.flushes,
            totals.invalidated,
            totals.generation,
            totals.serial,
            totals.floor,
            totals.all_hits,
            totals.all_misses,
            totals.hits,
            totals.misses,
        )
        self._txn.put(self._databases.totals_key, packed, db=self._databases.meta)

    def _evicted(self, entry: Entry) -> None:
        self.totals.evictions += 1
        self.totals.floor = max(self.totals.floor, entry.rank)

    def _remove_first(
        self,
        index: lmdb._Database,
        head_bytes: int,
        limit: int | None,
        before: bytes | None,
        tell: Callable[[Entry], None] | None,
    ) -> int:
        """Removes the first entries of an index, at most `limit`, and only those whose head is below `before`."""
        removed = 0
        while limit is None or removed < limit:
            with self._txn.cursor(db=index) as cursor:
                first = cursor.key() if cursor.first() else b""
            if not first or (before is not None and first[:head_bytes] >= before):
                break
            entry = self.remove(first[head_bytes:])
            if entry is None:
                self._txn.delete(first, db=index)
                continue
            if tell is not None:
                tell(entry)
            removed += 1
        return removed


def load(txn: lmdb.Transaction[Any], databases: Databases) -> Totals:
    """The totals as of a transaction."""
    raw = txn.get(databases.totals_key, db=databases.meta)
    return Totals(*_TOTALS.unpack(raw)) if raw is not None and len(raw) == _TOTALS.size else Totals()
