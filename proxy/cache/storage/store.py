"""One cache's memory in the workers' shared LMDB: exact limits, lifetimes, and who goes first to make room."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from proxy.cache.policy import CacheName
from proxy.cache.storage.edit import Databases, Edit, Totals, load
from proxy.cache.storage.entry import OVERHEAD_BYTES, STAMP_BYTES, Entry, Fresh, code, head, of_time, unpack
from proxy.cache.storage.hot import Hot
from proxy.clock import Clock
from proxy.settings import CacheLimits
from proxy.shared import Shared, StoreFullError

_HIT_MEMORY = 10_000.0
"""The hit rate is over about this many latest look-ups."""
_RELIEF = 0.9
"""An eviction stops early when this share of the threshold is reached: large entries must not empty the cache."""
_HOT_BYTES = 4 * 1024 * 1024
_CLOCK_SLACK_SECONDS = 5.0
"""An entry from further in the future than this is not believed."""
PLAIN_FORM = 0
_LAYOUT = b"2"
_LAYOUT_KEY = b"cache layout"


class Found(NamedTuple):
    """An answer as it was stored. Seconds; `expired` is how long ago it expired, negative before."""

    body: bytes
    age: float
    expired: float
    serial: int


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a page; `kept` is None if bodies were not asked for."""

    key: bytes
    entry: Entry
    kept: bytes | None


class CacheStore:
    """All methods may raise `StoreBusyError` or `StoreBrokenError`; storing never does so for want of room."""

    def __init__(self, shared: Shared, name: CacheName, limits: CacheLimits, clock: Clock) -> None:
        self.name: CacheName = name
        self.limits = limits
        self.hot = Hot(min(_HOT_BYTES, int(limits.max_size_mb * 2**20)))
        self._shared = shared
        self._clock = clock
        self._max_bytes = int(limits.max_size_mb * 2**20)
        self._max_entry_bytes = int(limits.max_entry_kb * 2**10)
        self._known: tuple[object, Databases] | None = None
        self.damaged = 0
        """How many entries could not be read by this process."""

    def prepare(self) -> int:
        """To be called once at the start: drops what an older layout or another `version` has left; says how much."""
        mark = f"cache version {self.name}".encode()
        layout, version = _LAYOUT_KEY + b" " + self.name.encode(), self.limits.version.encode()
        databases = self._databases()
        with self._shared.read() as txn:
            settled = txn.get(layout, db=databases.meta) == _LAYOUT and txn.get(mark, db=databases.meta) == version
        if settled:
            return 0
        with self._shared.write() as txn:
            edit = Edit(databases, txn)
            entries = edit.totals.entries
            if txn.get(layout, db=databases.meta) != _LAYOUT:
                edit.clear()
                edit.totals = Totals()
            elif entries:
                edit.clear()
                edit.totals.flushes += 1
                edit.totals.generation += 1
            txn.put(layout, _LAYOUT, db=databases.meta)
            txn.put(mark, version, db=databases.meta)
            edit.save()
        return entries

    def get(self, key: bytes) -> Found | None:
        """What is stored under `key`, expired or not."""
        raw = self._shared.get(key, self._databases().entries)
        if raw is None:
            return None
        serial, stored, expires = head(raw)
        body = self.hot.get(key, PLAIN_FORM, serial)
        if body is None:
            with self._shared.read() as txn:
                raw = txn.get(key, db=self._databases().entries)
                kept = txn.get(key, db=self._databases().bodies)
            if raw is None:
                return None
            serial, stored, expires = head(raw)
            try:
                body = None if kept is None else unpack(raw).body(kept)
            except ValueError:
                body = None
            if body is None:
                self.damaged += 1
                return None
            self.hot.put(key, PLAIN_FORM, serial, body)
        now = self._clock.wall()
        if stored > now + _CLOCK_SLACK_SECONDS:
            return None
        return Found(body, max(0.0, now - stored), now - expires, serial)

    def put_all(self, answers: Sequence[Fresh], generation: int | None = None) -> int:
        """Stores answers in one transaction, making room first; returns how many entries had to go. Too large a one is
        left out; all are, if the cache is of another `generation` by now."""
        coded = [(fresh, *code(fresh.body, self.limits.compression)) for fresh in answers]
        fitting = [each for each in coded if self._fits(each[0], each[2])]
        if not fitting:
            return 0
        try:
            return self._put_all(fitting, generation)
        except StoreFullError:
            removed = self.evict(expired=True, fraction=0.25)
        try:
            return removed + self._put_all(fitting, generation)
        except StoreFullError:
            return removed

    def evict(self, *, expired: bool, fraction: float | None) -> int:
        """Removes what has expired and then this fraction of the entries, in the order of eviction; says how many."""
        with self._shared.write() as txn:
            edit = Edit(self._databases(), txn)
            removed = edit.expire(self._clock.wall(), limit=None) if expired or fraction else 0
            if fraction:
                removed += edit.evict(math.ceil(edit.totals.entries * fraction))
            edit.save()
        return removed

    def relieve(self, batch: int, *, down_to: float) -> int:
        """Removes a batch: what has expired, then others, until the cache is no fuller than `down_to` of its limits."""
        limits = self.limits
        with self._shared.write() as txn:
            edit = Edit(self._databases(), txn)
            removed = edit.expire(self._clock.wall(), limit=batch)
            while removed < batch and edit.fuller(self._max_bytes, limits.max_entries, down_to):
                if not edit.evict(1):
                    break
                removed += 1
            edit.save()
        return removed

    def flush(self) -> int:
        """Empties the cache for all workers at once; returns how many entries there were."""
        with self._shared.write() as txn:
            edit = Edit(self._databases(), txn)
            entries = edit.totals.entries
            edit.clear()
            edit.totals.flushes += 1
            edit.totals.generation += 1
            edit.save()
        self.hot.clear()
        return entries

    def remove(self, serials: Mapping[bytes, int]) -> int:
        """Removes entries by key, if they still have the serial that was seen; what is on its way into the cache is not
        stored any more. Says how many."""
        removed = 0
        with self._shared.write() as txn:
            edit = Edit(self._databases(), txn)
            for key, serial in serials.items():
                entry = edit.find(key)
                if entry is not None and entry.serial == serial:
                    edit.remove(key)
                    removed += 1
            edit.totals.invalidated += removed
            edit.totals.generation += 1
            edit.save()
        return removed

    def page(self, after: bytes, limit: int, *, bodies: bool = False) -> list[Item]:
        """The next entries in the order of their keys, at most `limit`, as of one moment."""
        databases, items = self._databases(), list[Item]()
        with self._shared.read() as txn, txn.cursor(db=databases.entries) as cursor:
            there = cursor.set_range(after) if after else cursor.first()
            if there and after and cursor.key() == after:
                there = cursor.next()
            while there and len(items) < limit:
                key = cursor.key()
                kept = txn.get(key, db=databases.bodies) if bodies else None
                items.append(Item(key, unpack(cursor.value()), kept))
                there = cursor.next()
        return items

    def longest_expired(self) -> float:
        """For how many seconds the entry that expired first is kept past its end; 0 without such."""
        with self._shared.read() as txn, txn.cursor(db=self._databases().expiry) as cursor:
            first = cursor.key() if cursor.first() else b""
        return max(0.0, self._clock.wall() - of_time(first[:STAMP_BYTES])) if first else 0.0

    def totals(self) -> Totals:
        """The figures of the whole service."""
        with self._shared.read() as txn:
            return load(txn, self._databases())

    def share(self, hits: int, misses: int, touches: Mapping[bytes, tuple[int, float]]) -> None:
        """Adds look-ups that this worker counted, and tells entries how often and when (wall) they were used."""
        ranked = self.limits.strategy == "lfu"
        with self._shared.write() as txn:
            edit = Edit(self._databases(), txn)
            for key, (count, used) in touches.items():
                edit.touch(key, count, used, ranked=ranked)
            totals = edit.totals
            totals.all_hits += hits
            totals.all_misses += misses
            totals.hits += hits
            totals.misses += misses
            if (looked_up := totals.hits + totals.misses) > _HIT_MEMORY:
                totals.hits *= _HIT_MEMORY / 2 / looked_up
                totals.misses *= _HIT_MEMORY / 2 / looked_up
            edit.save()

    def _databases(self) -> Databases:
        environment = self._shared.environment
        if self._known is None or self._known[0] is not environment:
            self._known = (environment, Databases(self._shared, self.name))
            self.hot.clear()
        return self._known[1]

    def fits(self, body: bytes) -> bool:
        """Whether an answer is not too large to be kept."""
        return len(body) <= self._max_entry_bytes and len(body) + OVERHEAD_BYTES <= self._max_bytes

    def _fits(self, fresh: Fresh, kept: bytes) -> bool:
        accounted = len(kept) + len(fresh.packed_about) + OVERHEAD_BYTES
        return len(fresh.body) <= self._max_entry_bytes and accounted <= self._max_bytes

    def _put_all(self, answers: Sequence[tuple[Fresh, int, bytes]], generation: int | None) -> int:
        now = self._clock.wall()
        with self._shared.write() as txn:
            edit = Edit(self._databases(), txn)
            if generation is not None and edit.totals.generation != generation:
                return 0
            removed = sum(self._put(edit, *answer, now) for answer in answers)
            edit.save()
        return removed

    def _put(self, edit: Edit, fresh: Fresh, coding: int, kept: bytes, now: float) -> int:
        limits, key = self.limits, fresh.key
        older = edit.remove(key)
        size = len(kept) + len(fresh.packed_about) + OVERHEAD_BYTES
        removed = self._make_room(edit, size, now)
        born, hits = fresh.born, 0 if older is None else older.hits
        if born is None:
            ttl = fresh.ttl
            if ttl is None:
                ttl = limits.ttl * (1 + limits.ttl_jitter * (key[0] / 127.5 - 1))
            stored, expires, used = now, now + ttl, now
        else:
            stored, expires, used, hits = born.stored, born.expires, born.used, born.hits
        edit.totals.serial += 1
        rank = edit.totals.floor + 1 + hits if limits.strategy == "lfu" else 0
        entry = Entry(edit.totals.serial, stored, expires, used, rank, size, hits, coding, fresh.packed_about)
        edit.add(key, entry, kept)
        return removed

    def _make_room(self, edit: Edit, size: int, now: float) -> int:
        limits, before = self.limits, edit.totals.entries
        if edit.above(size, self._max_bytes, limits.max_entries, limits.eviction_threshold):
            edit.expire(now, limits.eviction_batch_size)
        if edit.above(size, self._max_bytes, limits.max_entries, limits.eviction_threshold):
            enough = limits.eviction_threshold * _RELIEF
            for _ in range(limits.eviction_batch_size):
                if not edit.above(size, self._max_bytes, limits.max_entries, enough):
                    break
                edit.evict(1)
        while edit.above(size, self._max_bytes, limits.max_entries, 1.0) and edit.evict(1):
            pass
        return before - edit.totals.entries
