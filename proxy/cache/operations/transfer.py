"""Caches as one JSON document, out and in: written and read piece by piece, so that its size does not matter.

`{"format", "exported_at", "entries": [{cache, key, operation, version, namespace, model, stored, expires, used, hits,
body}, …], "count"}`. Times are seconds since the epoch; `body` is the answer's own text.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, get_args

import orjson

from proxy.cache.named import NamedCache
from proxy.cache.operations.elements import Elements
from proxy.cache.policy import KEY_BYTES, CacheName
from proxy.cache.storage.entry import About, Birth, Fresh
from proxy.cache.storage.store import Item
from proxy.call import Call, Operation
from proxy.clock import Clock
from proxy.dialects.contract import Dialect
from proxy.dialects.registry import translation
from proxy.errors import ApiError
from proxy.shared import StoreBusyError

FORMAT = "llm-proxy cache 1"
_PAGE = 50
_ESCAPED = 6
"""A character may become so many in JSON."""
_AROUND_BYTES = 64 * 1024
_BUSY_TRIES = 50
_BUSY_SECONDS = 0.05
_FUTURE_SECONDS = 60.0
_LONGEST_LIFE_SECONDS = 366 * 86_400.0
_TEXTS = ("operation", "version", "namespace", "model", "body")
_NUMBERS = ("stored", "expires", "used", "hits")

Caches = Mapping[CacheName, NamedCache]


async def exported(caches: Caches, clock: Clock) -> AsyncIterator[bytes]:
    """The document in pieces. Each piece shows the cache as of its own moment."""
    head = {"format": FORMAT, "exported_at": clock.wall(), "entries": []}
    yield orjson.dumps(head)[:-2] + b"\n"
    count = 0
    for name, cache in caches.items():
        after = b""
        while page := cache.page(after, _PAGE, bodies=True):
            after = page[-1].key
            told = [line for item in page if (line := _line(name, item)) is not None]
            if told:
                yield (b",\n" if count else b"") + b",\n".join(told)
                count += len(told)
            await asyncio.sleep(0)
    yield b'\n],"count":%d}\n' % count


def _line(name: CacheName, item: Item) -> bytes | None:
    """One entry as JSON; None if its body is spoilt."""
    entry = item.entry
    try:
        body = entry.body(item.kept or b"").decode()
    except ValueError:
        return None
    about = entry.about
    return orjson.dumps(
        {
            "cache": name,
            "key": item.key.hex(),
            **about._asdict(),
            "stored": entry.stored,
            "expires": entry.expires,
            "used": entry.used,
            "hits": entry.hits,
            "body": body,
        }
    )


@dataclass(slots=True)
class Imported:
    """What an import has done so far."""

    imported: int = 0
    expired: int = 0
    other_version: int = 0
    """Entries of another `version` than is configured: no request would find them."""
    too_large: int = 0
    waiting: dict[CacheName, list[Fresh]] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """As the endpoint says it."""
        skipped = {"expired": self.expired, "other_version": self.other_version, "too_large": self.too_large}
        return {"imported": self.imported, "skipped": skipped}


async def imported(caches: Caches, parts: AsyncIterator[bytes], clock: Clock) -> dict[str, Any]:
    """Stores what a document holds. ApiError 400 with the place of the first fault: what came before it is stored by
    then and stays, each entry being whole in itself; 503 when the store stays busy."""
    largest = max(int(cache.limits.max_entry_kb * 1024) for cache in caches.values())
    elements, done, number = Elements("entries", largest * _ESCAPED + _AROUND_BYTES), Imported(), 0
    try:
        async for part in parts:
            for element in elements.feed(part):
                number += 1
                await _take(caches, element, number, done, clock.wall())
        _judge(elements.finish(), number)
    except ValueError as error:
        place = f"after {number} entries, behind byte {elements.offset}"
        raise ApiError(400, f"The import ended {place}: {error}.", code="invalid_import", param="entries") from error
    finally:
        for name in done.waiting:
            await _store(caches[name], done.waiting[name])
    return done.told()


def _judge(around: Mapping[str, object], number: int) -> None:
    if around.get("format") != FORMAT:
        raise ValueError(f"format: expected {FORMAT!r}, not {str(around.get('format'))[:100]!r}")
    if around.get("count") != number:
        raise ValueError(f"count: {number} entries came, not {str(around.get('count'))[:100]}")


async def _take(caches: Caches, element: bytes, number: int, done: Imported, now: float) -> None:
    """Puts one entry among those to be stored, and stores them when there are enough. ValueError with what is wrong."""
    try:
        name, version, fresh = _read(element, now)
    except ValueError as error:
        raise ValueError(f"entry {number}: {error}") from error
    cache = caches[name]
    assert fresh.born is not None
    if version != cache.limits.version:
        done.other_version += 1
    elif fresh.born.expires <= now:
        done.expired += 1
    elif not cache.store.fits(fresh.body):
        done.too_large += 1
    else:
        done.imported += 1
        waiting = done.waiting.setdefault(name, [])
        waiting.append(fresh)
        if len(waiting) >= _PAGE:
            done.waiting[name] = []
            await _store(cache, waiting)


async def _store(cache: NamedCache, answers: Sequence[Fresh]) -> None:
    if not answers:
        return
    for _ in range(_BUSY_TRIES):
        try:
            cache.evicted(cache.store.put_all(answers))
        except StoreBusyError:
            await asyncio.sleep(_BUSY_SECONDS)
        else:
            await asyncio.sleep(0)
            return
    raise ApiError(503, "The cache is busy; import again.", type="server_error", code="cache_busy")


def _read(element: bytes, now: float) -> tuple[CacheName, str, Fresh]:
    """The cache, the version and the answer of one entry. ValueError."""
    try:
        told = orjson.loads(element)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    name, key = _cache(told.get("cache")), _key(told.get("key"))
    texts = {text: told.get(text) for text in _TEXTS}
    if wrong := [text for text, value in texts.items() if not isinstance(value, str)]:
        raise ValueError(f"{wrong[0]}: expected a string")
    numbers = {number: told.get(number) for number in _NUMBERS}
    if wrong := [number for number, value in numbers.items() if not _is_time(value)]:
        raise ValueError(f"{wrong[0]}: expected a number of 0 or more")
    if texts["operation"] not in list(Operation):
        raise ValueError(f"operation: expected one of {', '.join(Operation)}")
    stored, expires, hits = numbers["stored"], numbers["expires"], numbers["hits"]
    if stored > now + _FUTURE_SECONDS:
        raise ValueError("stored: lies in the future")
    if not stored <= expires <= now + _LONGEST_LIFE_SECONDS:
        raise ValueError("expires: expected a time after stored, and within a year")
    about = About(texts["operation"], texts["version"], texts["namespace"], texts["model"])
    _expect_answer(about, texts["body"].encode())
    born = Birth(stored, expires, min(numbers["used"], now), min(int(hits), 2**32 - 1))
    return name, about.version, Fresh(key, texts["body"].encode(), about.pack(), born=born)


def _expect_answer(about: About, body: bytes) -> None:
    """ValueError unless a body is an answer that a cache would have kept, and can be told in each of its forms."""
    operation = Operation(about.operation)
    call = Call(operation, b"", {}, about.model, stream=True, id="", caller="")
    native = translation(operation, Dialect.ANTHROPIC if operation is Operation.MESSAGES else Dialect.OPENAI)
    assert native is not None, "each operation is spoken in its own dialect"
    try:
        whole = native.whole(call, body)
        native.replayed(call, body)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"body: no answer of a {operation} request: {error!r}") from error
    if not whole.storable:
        raise ValueError("body: an answer that did not come to its own end")


def _cache(value: object) -> CacheName:
    for name in get_args(CacheName):
        if value == name:
            return cast("CacheName", name)
    raise ValueError("cache: expected response or summary")


def _key(value: object) -> bytes:
    if not isinstance(value, str) or len(value) != 2 * KEY_BYTES:
        raise ValueError(f"key: expected {2 * KEY_BYTES} hexadecimal digits")
    return bytes.fromhex(value)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
