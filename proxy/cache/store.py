"""The response cache's memory in the workers' shared LMDB: exact limits, TTL, least recently used out first.

Databases: `cache_entries` key → times and size; `cache_bodies` key → answer; `cache_recency` and `cache_expiry` are
ordered indexes (time, key). The totals are changed in the same transactions and are therefore exact.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lmdb

from proxy.cache.policy import KEY_BYTES
from proxy.clock import Clock
from proxy.settings import CacheLimits
from proxy.shared import Shared, StoreBusyError, StoreFullError

_ENTRY = struct.Struct("<dddQ")
"""Stored at, expires at (wall seconds), last used (wall seconds), accounted bytes."""
_STAMP = struct.Struct(">Q")
"""Microseconds since the epoch, big-endian so that the index is in order of time."""
_TOTALS = struct.Struct("<QQQQQdd")
_TOTALS_KEY = b"cache totals"
OVERHEAD_BYTES = 3 * KEY_BYTES + _ENTRY.size + KEY_BYTES + 2 * _STAMP.size
"""Keys, times and indexes of one entry."""
_TOUCH_SECONDS = 5.0
"""A hit moves an entry up at most this often, so that hits on a hot entry do not write."""
_HIT_MEMORY = 10_000.0
"""The hit rate is over about this many latest look-ups."""
_TTL_JITTER = 0.1
_RELIEF = 0.9
"""An eviction stops early when this share of the threshold is reached: large entries must not empty the cache."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Of the whole service; `hits` and `misses` are a fading memory, the rest is exact since the files were made."""

    size_bytes: int = 0
    entries: int = 0
    evictions: int = 0
    expired: int = 0
    flushes: int = 0
    hits: float = 0.0
    misses: float = 0.0

    @property
    def hit_rate(self) -> float:
        """0 to 1; 0 without a look-up."""
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else 0.0


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer and its age in seconds."""

    body: bytes
    age: float


class ResponseCache:
    """Look up, store, evict, flush. All methods may raise `StoreBusyError` or `StoreBrokenError`, `put` never does so
    for want of room. Costs of a hit: one read transaction, and every few seconds a write."""

    def __init__(self, shared: Shared, limits: CacheLimits, clock: Clock) -> None:
        self._shared = shared
        self._limits = limits
        self._clock = clock
        self._max_bytes = int(limits.max_size_mb * 2**20)
        self._max_entry_bytes = int(limits.max_entry_kb * 2**10)

    def get(self, key: bytes) -> Hit | None:
        """The unexpired answer under `key`, or None."""
        now = self._clock.wall()
        with self._shared.read() as txn:
            raw = txn.get(key, db=self._shared.database("cache_entries"))
            body = None if raw is None else txn.get(key, db=self._shared.database("cache_bodies"))
        if raw is None or body is None:
            return None
        stored, expires, used, _size = _ENTRY.unpack(raw)
        if now >= expires or now < stored - _TOUCH_SECONDS:
            return None
        if now - used >= _TOUCH_SECONDS:
            self._touch(key, now)
        return Hit(body, max(0.0, now - stored))

    def put(self, key: bytes, body: bytes) -> int:
        """`put_all` of one answer, whatever was flushed before."""
        return self.put_all([(key, body)])

    def put_all(self, answers: Sequence[tuple[bytes, bytes]], flushes: int | None = None) -> int:
        """Stores answers in one transaction, making room first; returns how many entries had to go. Too large a one is
        left out; all are, if the cache has been flushed since it had counted so many `flushes`."""
        fitting = [answer for answer in answers if self.fits(answer[1])]
        if not fitting:
            return 0
        try:
            return self._put_all(fitting, flushes)
        except StoreFullError:
            removed = self.evict(expired=True, fraction=0.25)
        try:
            return removed + self._put_all(fitting, flushes)
        except StoreFullError:
            return removed

    def fits(self, body: bytes) -> bool:
        """Whether an answer is not too large for the cache."""
        return len(body) <= self._max_entry_bytes and len(body) + OVERHEAD_BYTES <= self._max_bytes

    def evict(self, *, expired: bool, fraction: float | None) -> int:
        """Removes what has expired and then this fraction of the entries, least recently used first; says how many."""
        with self._shared.write() as txn:
            edit = _Edit(self._shared, txn)
            removed = edit.remove_expired(self._clock.wall(), limit=None) if expired or fraction else 0
            if fraction:
                removed += edit.remove_oldest(math.ceil(edit.entries * fraction))
            edit.save()
        return removed

    def flush(self) -> int:
        """Empties the cache for all workers at once; returns how many entries there were."""
        with self._shared.write() as txn:
            edit = _Edit(self._shared, txn)
            entries = edit.entries
            edit.clear()
            edit.flushes += 1
            edit.save()
        return entries

    def totals(self) -> Totals:
        """The figures of the whole service."""
        with self._shared.read() as txn:
            return _load(txn, self._shared)

    def count(self, hits: int, misses: int) -> None:
        """Adds look-ups that this worker counted by itself."""
        with self._shared.write() as txn:
            edit = _Edit(self._shared, txn)
            edit.hits += hits
            edit.misses += misses
            if (looked_up := edit.hits + edit.misses) > _HIT_MEMORY:
                edit.hits *= _HIT_MEMORY / 2 / looked_up
                edit.misses *= _HIT_MEMORY / 2 / looked_up
            edit.save()

    def _put_all(self, answers: Sequence[tuple[bytes, bytes]], flushes: int | None) -> int:
        now = self._clock.wall()
        with self._shared.write() as txn:
            edit = _Edit(self._shared, txn)
            if flushes is not None and edit.flushes != flushes:
                return 0
            removed = sum(self._put(edit, key, body, now) for key, body in answers)
            edit.save()
        return removed

    def _put(self, edit: _Edit, key: bytes, body: bytes, now: float) -> int:
        limits, size = self._limits, len(body) + OVERHEAD_BYTES
        ttl = limits.ttl * (1 - _TTL_JITTER + 2 * _TTL_JITTER * key[0] / 255)
        edit.remove(key)
        before = edit.entries
        if edit.above(size, self._max_bytes, limits.max_entries, limits.eviction_threshold):
            edit.remove_expired(now, limits.eviction_batch_size)
        if edit.above(size, self._max_bytes, limits.max_entries, limits.eviction_threshold):
            enough = limits.eviction_threshold * _RELIEF
            for _ in range(limits.eviction_batch_size):
                if not edit.above(size, self._max_bytes, limits.max_entries, enough):
                    break
                edit.remove_oldest(1)
        while edit.above(size, self._max_bytes, limits.max_entries, 1.0) and edit.remove_oldest(1):
            pass
        removed = before - edit.entries
        edit.add(key, body, _ENTRY.pack(now, now + ttl, now, size))
        return removed

    def _touch(self, key: bytes, now: float) -> None:
        """Moves an entry up; if the store is busy, another hit will."""
        try:
            with self._shared.write() as txn:
                _Edit(self._shared, txn).touch(key, now)
        except StoreBusyError:
            return


class _Edit:
    """One write transaction's view: the totals, and changes that keep all databases in step."""

    def __init__(self, shared: Shared, txn: lmdb.Transaction[bytes]) -> None:
        self._txn = txn
        self._shared = shared
        self._entries = shared.database("cache_entries")
        self._bodies = shared.database("cache_bodies")
        self._recency = shared.database("cache_recency")
        self._expiry = shared.database("cache_expiry")
        totals = _load(txn, shared)
        self.size_bytes, self.entries = totals.size_bytes, totals.entries
        self.evictions, self.expired, self.flushes = totals.evictions, totals.expired, totals.flushes
        self.hits, self.misses = totals.hits, totals.misses

    def above(self, coming_bytes: int, max_bytes: int, max_entries: int, share: float) -> bool:
        """Whether the cache with one more entry would be fuller than this share of its limits."""
        return self.size_bytes + coming_bytes > max_bytes * share or self.entries + 1 > max_entries * share

    def add(self, key: bytes, body: bytes, entry: bytes) -> None:
        _stored, expires, used, size = _ENTRY.unpack(entry)
        self._txn.put(key, entry, db=self._entries)
        self._txn.put(key, body, db=self._bodies)
        self._txn.put(_stamp(used) + key, b"", db=self._recency)
        self._txn.put(_stamp(expires) + key, b"", db=self._expiry)
        self.size_bytes += size
        self.entries += 1

    def remove(self, key: bytes) -> bool:
        raw = self._txn.get(key, db=self._entries)
        if raw is None:
            return False
        _stored, expires, used, size = _ENTRY.unpack(raw)
        self._txn.delete(key, db=self._entries)
        self._txn.delete(key, db=self._bodies)
        self._txn.delete(_stamp(used) + key, db=self._recency)
        self._txn.delete(_stamp(expires) + key, db=self._expiry)
        self.size_bytes -= size
        self.entries -= 1
        return True

    def touch(self, key: bytes, now: float) -> None:
        raw = self._txn.get(key, db=self._entries)
        if raw is None:
            return
        stored, expires, used, size = _ENTRY.unpack(raw)
        self._txn.delete(_stamp(used) + key, db=self._recency)
        self._txn.put(_stamp(now) + key, b"", db=self._recency)
        self._txn.put(key, _ENTRY.pack(stored, expires, now, size), db=self._entries)

    def remove_oldest(self, limit: int) -> int:
        removed = self._remove_first(self._recency, limit, None)
        self.evictions += removed
        return removed

    def remove_expired(self, now: float, limit: int | None) -> int:
        removed = self._remove_first(self._expiry, limit, _stamp(now))
        self.expired += removed
        return removed

    def clear(self) -> None:
        for database in (self._entries, self._bodies, self._recency, self._expiry):
            self._txn.drop(database, delete=False)
        self.size_bytes = self.entries = 0

    def save(self) -> None:
        packed = _TOTALS.pack(
            self.size_bytes, self.entries, self.evictions, self.expired, self.flushes, self.hits, self.misses
        )
        self._txn.put(_TOTALS_KEY, packed, db=self._shared.database("meta"))

    def _remove_first(self, index: lmdb._Database, limit: int | None, before: bytes | None) -> int:
        """Removes the first entries of an index, at most `limit`, and only those whose stamp is below `before`."""
        removed = 0
        while limit is None or removed < limit:
            with self._txn.cursor(db=index) as cursor:
                first = cursor.key() if cursor.first() else b""
            if not first or (before is not None and first[: _STAMP.size] >= before):
                break
            if not self.remove(first[_STAMP.size :]):
                self._txn.delete(first, db=index)
                continue
            removed += 1
        return removed


def _load(txn: lmdb.Transaction[Any], shared: Shared) -> Totals:
    raw = txn.get(_TOTALS_KEY, db=shared.database("meta"))
    return Totals() if raw is None else Totals(*_TOTALS.unpack(raw))


def _stamp(seconds: float) -> bytes:
    return _STAMP.pack(max(0, int(seconds * 1e6)))
