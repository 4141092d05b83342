"""Asks popular requests again before their answers expire: by one worker, one at a time, within a budget."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from proxy.cache.named import MIB, NamedCache
from proxy.cache.storage.entry import About, Fresh
from proxy.cache.upkeep.popular import Popular
from proxy.call import Call
from proxy.clock import Clock
from proxy.dialects.contract import Whole
from proxy.errors import ApiError
from proxy.shared import Shared, StoreBrokenError, StoreBusyError

log = logging.getLogger(__name__)

PAUSED = b"cache warming paused"
WANTED = b"cache warming wanted"
_SOON_SECONDS = 5.0
"""After the start of the worker that cares for the caches, when popular answers are to be loaded at once."""
_MODEL_CHARACTERS = 200

Ask = Callable[[Call], Awaitable[Whole | None]]
"""Asks the providers; None if the answer is none that a cache keeps. ApiError when all of them failed."""


@dataclass(slots=True)
class Record:
    """What warming has done for one cache since its files were made."""

    rounds: int = 0
    warmed: int = 0
    failed: int = 0
    fresh: int = 0
    """Popular requests that did not need to be asked."""
    last_round_at: float | None = None
    last_round_seconds: float | None = None
    last_error: str | None = None


class Warmer:
    """Of one cache. `round` may raise StoreBusyError or StoreBrokenError."""

    def __init__(self, cache: NamedCache, shared: Shared, ask: Ask, may: Callable[[], bool], clock: Clock) -> None:
        """`may` is asked before each request: whether it may be made now."""
        self._cache = cache
        self._shared = shared
        self._ask = ask
        self._may = may
        self._clock = clock
        self._began = clock.wall()
        self._record_key = f"cache warming {cache.name}".encode()

    @property
    def enabled(self) -> bool:
        """Whether the configuration wants it."""
        return self._cache.limits.warming.enabled and self._cache.limits.enabled

    def record(self) -> Record:
        """What has been done."""
        with self._shared.read() as txn:
            raw = txn.get(self._record_key, db=self._shared.database("meta"))
        return Record() if raw is None else Record(**orjson.loads(raw))

    def due(self) -> bool:
        """Whether it is time for a round."""
        warming = self._cache.limits.warming
        if not self.enabled:
            return False
        last = self.record().last_round_at or 0.0
        if _kept(self._shared, WANTED, 0.0) > last:
            return True
        if warming.preload_popular:
            return self._clock.wall() >= max(last + warming.interval, self._began + _SOON_SECONDS)
        return self._clock.wall() >= max(last, self._began) + warming.interval

    async def round(self) -> Record:
        """Asks what is popular and expires before the next round."""
        cache, warming, began = self._cache, self._cache.limits.warming, self._clock.wall()
        record = self.record()
        record.rounds += 1
        record.last_round_at = began
        self._save(record)
        room = warming.max_size_mb * MIB
        for popular in cache.popularity.top():
            if room <= 0 or not self._may():
                break
            found = cache.find(popular.key)
            if found is not None and -found.expired > warming.interval:
                record.fresh += 1
                continue
            room -= await self._warm(popular, record)
        record.last_round_seconds = round(self._clock.wall() - began, 3)
        self._save(record)
        return record

    async def _warm(self, popular: Popular, record: Record) -> int:
        """Asks one request; the size of its answer."""
        cache, call = self._cache, popular.call
        try:
            whole = await self._ask(call)
        except ApiError as error:
            record.failed += 1
            record.last_error = f"{error.status} {error.code}"
            log.info("warming %s: %s: %s", cache.name, popular.key[:8].hex(), record.last_error)
            return 0
        if whole is None or not whole.storable:
            record.failed += 1
            record.last_error = "the answer is not one to keep"
            cache.popularity.forget(popular.key)
            return 0
        about = About(call.operation, cache.limits.version, popular.namespace, call.model[:_MODEL_CHARACTERS])
        cache.behind.put(Fresh(popular.key, whole.body, about.pack(), popular.ttl))
        record.warmed += 1
        cache.warmed()
        return len(whole.body)

    def _save(self, record: Record) -> None:
        with self._shared.write() as txn:
            txn.put(self._record_key, orjson.dumps(asdict(record)), db=self._shared.database("meta"))


@dataclass(frozen=True, slots=True)
class Paused:
    """An operator's pause; wall seconds. None: until it is resumed."""

    since: float
    until: float | None = None


def paused(shared: Shared, now: float) -> Paused | None:
    """The pause that is in force. May raise StoreBrokenError."""
    found = _kept(shared, PAUSED, None)
    if found is None:
        return None
    pause = Paused(found) if isinstance(found, int | float) else Paused(**found)
    return pause if pause.until is None or now < pause.until else None


def pause(shared: Shared, wanted: Paused | None) -> None:
    """Pauses warming for the whole service, or has it go on (None). May raise StoreBusyError or StoreBrokenError."""
    with shared.write() as txn:
        if wanted is None:
            txn.delete(PAUSED, db=shared.database("meta"))
        else:
            txn.put(PAUSED, orjson.dumps(asdict(wanted)), db=shared.database("meta"))


def want_round(shared: Shared, now: float) -> None:
    """Makes a round due, whatever the interval, of whichever worker cares for the caches. May raise StoreBusyError or
    StoreBrokenError."""
    with shared.write() as txn:
        txn.put(WANTED, orjson.dumps(now), db=shared.database("meta"))


def _kept(shared: Shared, key: bytes, otherwise: Any) -> Any:
    with shared.read() as txn:
        raw = txn.get(key, db=shared.database("meta"))
    return otherwise if raw is None else orjson.loads(raw)


def told(cache: NamedCache, record: Record) -> dict[str, Any]:
    """What `/metrics/cache/warming` says of one cache."""
    warming = cache.limits.warming
    return {
        "enabled": warming.enabled and cache.limits.enabled,
        "interval_seconds": warming.interval,
        "top": warming.top,
        "max_size_mb": warming.max_size_mb,
        "requests_remembered": cache.guarded(cache.popularity.remembered, 0),
        **asdict(record),
    }


STORE_TROUBLE = (StoreBusyError, StoreBrokenError)
"""What a round may end in; the next one tries again."""
