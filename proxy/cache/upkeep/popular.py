"""Which requests are asked again and again, and their bodies, so that they can be asked again without their callers.

Each worker counts for half a minute (or half an interval, if that is less) and then adds what was asked at least twice
to a shared database: a score that halves every six hours, and the request. Prompts lie there as answers lie in their
store, in files of the service's own user, and are never listed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import orjson

from proxy.cache.policy import CacheName
from proxy.call import Call, Operation
from proxy.clock import Clock
from proxy.settings import CacheLimits
from proxy.shared import Shared

_SCORE = struct.Struct("<dd")
"""Score, as of (wall seconds)."""
_HALF_LIFE_SECONDS = 6 * 3600.0
_WINDOW_SECONDS = 30.0
_MOST_COUNTED = 512
_LARGEST_BODY_BYTES = 64 * 1024
_MEANS_POPULAR = 2
_REMEMBERED_PER_TOP = 5
_DATABASE = "cache_popular"


@dataclass(frozen=True, slots=True)
class Popular:
    """One request that is asked often, as it can be asked again: whole, whatever its callers want."""

    key: bytes
    score: float
    namespace: str
    ttl: float | None
    call: Call


@dataclass(slots=True)
class _Count:
    number: int
    call: Call
    namespace: str
    ttl: float | None


class Popularity:
    """Of one cache, in one worker. What touches the database may raise StoreBusyError or StoreBrokenError."""

    def __init__(self, name: CacheName, limits: CacheLimits, shared: Shared, clock: Clock) -> None:
        self._prefix = name[:1].encode()
        self._limits = limits.warming
        self._shared = shared
        self._clock = clock
        self._counts: dict[bytes, _Count] = {}
        self._since = clock.monotonic()
        self._window_seconds = min(_WINDOW_SECONDS, self._limits.interval / 2)

    def note(self, key: bytes, call: Call, namespace: str, ttl: float | None) -> None:
        """Counts one request that the cache was asked for. Cheap, and bounded."""
        known = self._counts.get(key)
        if known is not None:
            known.number += 1
        elif len(call.body) <= _LARGEST_BODY_BYTES:
            if len(self._counts) >= _MOST_COUNTED:
                self._counts = {key: count for key, count in self._counts.items() if count.number >= _MEANS_POPULAR}
            if len(self._counts) < _MOST_COUNTED:
                self._counts[key] = _Count(1, call, namespace, ttl)

    def share(self, *, now: bool = False) -> None:
        """Adds what was counted to the shared database, when the window is over or `now`."""
        monotonic = self._clock.monotonic()
        if not now and monotonic - self._since < self._window_seconds:
            return
        counts, self._counts, self._since = self._counts, {}, monotonic
        again = {key: count for key, count in counts.items() if count.number >= _MEANS_POPULAR}
        if not again:
            return
        wall, most = self._clock.wall(), 2 * _REMEMBERED_PER_TOP * self._limits.top
        database = self._shared.database(_DATABASE)
        with self._shared.write() as txn:
            room = most - txn.stat(database)["entries"]
            for key, count in again.items():
                place = self._prefix + key
                known = txn.get(place, db=database)
                if known is not None:
                    score = _faded(known, wall) + count.number
                    txn.put(place, _SCORE.pack(score, wall) + known[_SCORE.size :], db=database)
                elif room > 0:
                    room -= 1
                    txn.put(place, _SCORE.pack(count.number, wall) + _packed(count), db=database)

    def top(self) -> list[Popular]:
        """The most popular requests, the most popular first; those that are too many or too large are forgotten."""
        wall, database = self._clock.wall(), self._shared.database(_DATABASE)
        with self._shared.read() as txn, txn.cursor(db=database) as cursor:
            kept = [
                (_faded(value, wall), place, bytes(value))
                for place, value in cursor.iternext()
                if place[:1] == self._prefix
            ]
        kept.sort(key=lambda row: row[0], reverse=True)
        room, last = self._limits.max_size_mb * 2**20, 0
        for score, place, value in kept[: _REMEMBERED_PER_TOP * self._limits.top]:
            room -= len(place) + len(value)
            if room < 0 or score < 1 / 1024:
                break
            last += 1
        if last < len(kept):
            with self._shared.write() as txn:
                for _, place, _ in kept[last:]:
                    txn.delete(place, db=database)
        return [_unpacked(place[1:], score, value) for score, place, value in kept[: min(last, self._limits.top)]]

    def forget(self, key: bytes) -> None:
        """The request is not to be asked again."""
        with self._shared.write() as txn:
            txn.delete(self._prefix + key, db=self._shared.database(_DATABASE))

    def remembered(self) -> int:
        """How many requests are."""
        with self._shared.read() as txn, txn.cursor(db=self._shared.database(_DATABASE)) as cursor:
            return sum(1 for place in cursor.iternext(keys=True, values=False) if place[:1] == self._prefix)


def _faded(value: bytes, wall: float) -> float:
    score, at = _SCORE.unpack_from(value)
    return float(score * 0.5 ** (max(0.0, wall - at) / _HALF_LIFE_SECONDS))


def _packed(count: _Count) -> bytes:
    call = count.call
    fields = {name: value for name, value in call.fields.items() if name not in ("stream", "stream_options")}
    return orjson.dumps(
        {
            "operation": call.operation,
            "fields": fields,
            "caller": call.caller,
            "passed": call.passed,
            "namespace": count.namespace,
            "ttl": count.ttl,
        }
    )


def _unpacked(key: bytes, score: float, value: bytes) -> Popular:
    told = orjson.loads(value[_SCORE.size :])
    call = Call(
        operation=Operation(told["operation"]),
        body=orjson.dumps(told["fields"]),
        fields=told["fields"],
        model=told["fields"]["model"],
        stream=False,
        id=f"warming-{key[:8].hex()}",
        caller=told["caller"],
        passed=tuple((name, content) for name, content in told["passed"]),
    )
    return Popular(key, score, told["namespace"], told["ttl"], call)
