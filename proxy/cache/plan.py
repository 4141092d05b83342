"""What the caches do for one request, from its look-up to the end of its answer."""

from __future__ import annotations

from typing import Literal, NamedTuple

from proxy.cache.flights import Flight, Landing
from proxy.cache.named import NamedCache
from proxy.cache.policy import Wish
from proxy.cache.storage.entry import About, Fresh
from proxy.cache.storage.store import PLAIN_FORM, Found
from proxy.call import Call, Operation
from proxy.dialects.contract import Whole
from proxy.dialects.registry import spoken
from proxy.errors import ApiError

_STREAM, _STREAM_WITH_USAGE = 1, 2
_MODEL_CHARACTERS = 200
_MARKS = {outcome: (b"x-cache", outcome.encode()) for outcome in ("hit", "miss", "bypass", "stale")}
_SHORT_BYTES = 8


class Hit(NamedTuple):
    """An answer in the form that was asked for, whole or as a stream, and its age in seconds."""

    body: bytes
    age: float


class Plan:
    """`find`, then after a miss `store` or nothing, and `release` at its very end, whatever has become of it."""

    __slots__ = ("_cache", "_call", "_flight", "_form", "_key", "_namespace", "_patience", "_wish", "outcome")

    outcome: Literal["hit", "miss", "bypass", "stale"]
    """What the caller is told; final after `find` or `rescue`."""

    def __init__(
        self, cache: NamedCache | None, call: Call, wish: Wish, namespace: str, key: bytes, patience: float
    ) -> None:
        """`cache` None: there is nothing to do. `patience` bounds the wait for another one's equal request."""
        self._cache = cache
        self._call = call
        self._wish = wish
        self._namespace = namespace
        self._key = key
        self._patience = patience
        self._flight: Flight | None = None
        self._form = PLAIN_FORM if not call.stream else _form(call)
        self.outcome = "bypass"

    @property
    def counted(self) -> Literal["hit", "miss", "bypass"]:
        """`outcome` in the account's words."""
        return "hit" if self.outcome == "stale" else self.outcome

    @property
    def keeps(self) -> bool:
        """Whether `store` may store something, so that a stream is worth putting together."""
        return self._cache is not None and self._wish.store

    @property
    def looks_up(self) -> bool:
        """Whether the answer may come from the cache."""
        return self._cache is not None and self._wish.lookup and self._form is not None

    async def find(self) -> Hit | None:
        """The answer, or None: then a provider is to be asked. Waits while an equal request is in the air. ApiError 504
        if the caller wants none but a cached answer."""
        cache = self._cache
        if cache is None or not self.looks_up:
            self._missed()
            return None
        cache.note(self._key, self._call, self._namespace, self._wish.ttl)
        found = self._acceptable()
        if found is None and self._wish.store and not self._wish.only:
            joined = await cache.flights.join(self._key, self._acceptable, self._patience)
            if isinstance(joined, Flight):
                self._flight = joined
            else:
                found = joined
        if found is None:
            cache.miss()
            self.outcome = "miss"
            self._missed()
            return None
        cache.hit(self._key)
        self.outcome = "stale" if found.expired >= 0 else "hit"
        return self._shaped(cache, found)

    def store(self, whole: Whole) -> None:
        """Keeps a good answer if it may be kept, and hands it to those who wait for it."""
        cache, flight = self._cache, self._flight
        if cache is None:
            return
        self._flight = None
        if not (self._wish.store and whole.storable):
            if flight is not None:
                cache.flights.land(flight, Landing.UNKEPT)
            return
        about = About(self._call.operation, cache.limits.version, self._namespace, self._call.model[:_MODEL_CHARACTERS])
        fresh = Fresh(self._key, whole.body, about.pack(), self._wish.ttl)
        if flight is None:
            cache.behind.put(fresh)
            return
        cache.behind.put(fresh, lambda: cache.flights.unlock(fresh.key))
        cache.flights.land(flight, Landing.KEPT, unlock=False)

    def rescue(self) -> Hit | None:
        """After every provider has failed: an answer that has expired no longer ago than the caller allows by
        `stale-if-error`."""
        cache = self._cache
        if cache is None or not (self.looks_up and self._wish.stale_if_error):
            return None
        found = cache.find(self._key)
        if found is None or found.expired > self._wish.stale_if_error:
            return None
        self.outcome = "stale" if found.expired >= 0 else "hit"
        return self._shaped(cache, found)

    def release(self) -> None:
        """Tells whoever waits for this request's answer that none will come any more. May be called twice."""
        if self._flight is not None and self._cache is not None:
            flight, self._flight = self._flight, None
            self._cache.flights.land(flight, Landing.FAILED)

    def marks(self, hit: Hit | None) -> list[tuple[bytes, bytes]]:
        """The headers that tell the caller what the cache did."""
        marks = [_MARKS[self.outcome]]
        if self._key:
            marks.append((b"x-cache-key", self._key[:_SHORT_BYTES].hex().encode()))
        if hit is not None:
            marks.append((b"age", b"%d" % hit.age))
        return marks

    def _acceptable(self) -> Found | None:
        """What is there, if it is as young as the caller wants it."""
        assert self._cache is not None
        found, wish = self._cache.find(self._key), self._wish
        if found is None or found.age > wish.max_age:
            return None
        return found if found.expired < 0 or found.expired < wish.max_stale else None

    def _missed(self) -> None:
        if self._wish.only:
            raise ApiError(
                504,
                "The answer is not in the cache, and the request allows no other.",
                type="cache_error",
                code="not_cached",
                param="cache-control",
                retryable=False,
                headers=tuple(self.marks(None)),
            )

    def _shaped(self, cache: NamedCache, found: Found) -> Hit:
        """The answer in the form that was asked for; streams are told once and kept in hand."""
        call, form = self._call, self._form
        if not form:
            return Hit(found.body, found.age)
        hot = cache.store.hot
        told = hot.get(self._key, form, found.serial)
        if told is None:
            told = spoken(call.operation).replayed(call, found.body)
            assert told is not None, "embeddings are the only operation without a stream"
            if found.serial:
                hot.put(self._key, form, found.serial, told)
        return Hit(told, found.age)


def _form(call: Call) -> int | None:
    """In which of its forms a stream is told, None if it cannot be."""
    if call.operation is Operation.EMBEDDINGS:
        return None
    return _STREAM_WITH_USAGE if call.usage else _STREAM
