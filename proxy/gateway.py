"""Puts the gateway of one worker together: cache first, then the providers, and what may be asked of both."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import orjson

from proxy.cache.behind import WriteBehind
from proxy.cache.policy import Directives, directives, request_key, storable
from proxy.cache.store import Hit, ResponseCache, Totals
from proxy.call import Account, Call, Operation
from proxy.clock import Clock
from proxy.errors import ApiError, ConfigError
from proxy.metrics import Metrics
from proxy.providers import local, openai
from proxy.providers.attempts import Attempts
from proxy.providers.endpoint import Endpoint
from proxy.providers.health import provider_health
from proxy.providers.record import ProviderRecord
from proxy.providers.recovery import Recovery
from proxy.routing.breaker import Policy, State
from proxy.settings import LocalProvider, OpenAIProvider, Provider, Settings
from proxy.shared import Shared, StoreBrokenError, StoreBusyError
from proxy.streaming import stream_of
from proxy.upstream import Upstream

log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
_MAP_HEADROOM_BYTES = 32 * 1024 * 1024
_ENTRY_HEADROOM_BYTES = 1024
_CIRCUIT_LEVEL = {State.CLOSED: 0.0, State.HALF_OPEN: 1.0, State.OPEN: 2.0}
_MIB = 2**20
_JSON = (b"content-type", b"application/json")
_EVENT_STREAM = (b"content-type", b"text/event-stream")
_NO_CACHE = (b"cache-control", b"no-cache")

_SUBJECTS: dict[Operation, tuple[str, tuple[type, ...], str]] = {
    Operation.CHAT: ("messages", (list,), "an array of messages"),
    Operation.MESSAGES: ("messages", (list,), "an array of messages"),
    Operation.COMPLETIONS: ("prompt", (str, list), "a string or an array"),
    Operation.EMBEDDINGS: ("input", (str, list), "a string or an array"),
}
"""What each operation cannot be without, beside the model."""

T = TypeVar("T")


@dataclass(slots=True)
class Reply:
    """An answer to the caller; a `body` that is an iterator is a stream, and must be closed with `aclose`."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | AsyncIterator[bytes]
    account: Account | None


class Gateway:
    """One per worker. Everything but `answer` is quick and may be called from any handler."""

    def __init__(self, settings: Settings, metrics: Metrics, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._hits = metrics.counter("cache_hits_total", "Answers given from the cache.")
        self._misses = metrics.counter("cache_misses_total", "Look-ups in the cache that found nothing.")
        self._evictions = metrics.counter("cache_evictions_total", "Entries removed from the cache to make room.")
        self._gauges = {
            name: metrics.gauge(name, text, combine="max")
            for name, text in (
                ("cache_entries", "Entries in the cache."),
                ("cache_max_entries", "Entries that the cache may hold."),
                ("cache_size_bytes", "Bytes that the cache holds."),
                ("cache_max_bytes", "Bytes that the cache may hold."),
            )
        }
        self._circuits = metrics.gauge(
            "provider_circuit_state", "0 closed, 1 half-open, 2 open.", ("provider",), combine="max"
        )
        self._counted = [0, 0]
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the shared store and the pool. ConfigError if a secret or the state directory cannot be used."""
        settings, limits, breaker = self._settings, self._settings.cache, self._settings.breaker
        self._endpoints = tuple(_endpoint(provider) for provider in settings.providers)
        map_bytes = int(limits.max_size_mb * 3 * _MIB) + limits.max_entries * _ENTRY_HEADROOM_BYTES
        try:
            self._shared = Shared(settings.state_dir / "shared", map_bytes + _MAP_HEADROOM_BYTES, self._clock)
        except OSError as error:
            raise ConfigError(f"{settings.state_dir} cannot be used: {error}", key="state_dir") from error
        self._cache = ResponseCache(self._shared, limits, self._clock)
        self._behind = WriteBehind(self._store, lambda: self._totals().flushes, self._clock)
        policy = Policy(
            breaker.consecutive_failures,
            breaker.error_ratio,
            breaker.min_requests,
            breaker.cooldown,
            breaker.cooldown_max,
        )
        names = tuple(endpoint.name for endpoint in self._endpoints)
        self._record = ProviderRecord(self._shared, names, policy, breaker.window, self._clock)
        self._upstream = Upstream(settings.timeouts.connect)
        self._attempts = Attempts(
            self._endpoints, self._upstream, self._record, settings.timeouts, self._metrics, self._clock
        )
        self._recovery = Recovery(self._endpoints, self._upstream, self._record, self._clock)
        self._refresh()
        self._ticking = asyncio.create_task(self._tick())

    async def close(self) -> None:
        """Shares the last figures and closes everything; streams must have ended."""
        if self._ticking is None:
            return
        self._ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticking
        await self._recovery.close()
        self._behind.settle()
        self._share()
        await self._upstream.close()
        self._shared.close()
        self._ticking = None

    async def answer(
        self, operation: Operation, body: bytes, headers: Mapping[str, str], caller: str, request_id: str
    ) -> Reply:
        """Answers from the cache or a provider. `headers` are lower-case, `caller` is the id of a key. ApiError."""
        request = _parse(operation, body, request_id, caller)
        account = Account(operation, request.model, request.stream)
        allowed = self._directives(headers)
        key = request_key(request.fields, caller) if allowed.lookup or allowed.store else b""
        if allowed.lookup:
            hit = self._find(key)
            self._count(hit is not None)
            if hit is not None:
                account.cache = "hit"
                return _from_cache(hit, request, account)
            account.cache = "miss"
        delivered = await self._attempts.deliver(request, account)
        if allowed.store and delivered.parsed is not None and storable(delivered.parsed):
            answer = delivered.body
            assert isinstance(answer, bytes)
            self._behind.put(key, answer)
        replied = [
            (b"content-type", delivered.content_type),
            (b"x-provider", delivered.provider.encode("latin-1", "replace")),
            (b"x-cache", b"miss" if allowed.lookup else b"bypass"),
        ]
        if request.stream and delivered.status == 200:
            replied.append(_NO_CACHE)
        return Reply(delivered.status, replied, delivered.body, account)

    def models(self) -> dict[str, Any]:
        """OpenAI's list object, each model once, owned by the first provider that serves it."""
        owners = {model: endpoint.name for endpoint in reversed(self._endpoints) for model in endpoint.listed}
        order = dict.fromkeys(model for endpoint in self._endpoints for model in endpoint.listed)
        listed = [{"id": model, "object": "model", "created": 0, "owned_by": owners[model]} for model in order]
        return {"object": "list", "data": listed}

    def usable(self) -> bool:
        """Whether at least one provider's circuit is not open."""
        self._record.refresh()
        return any(self._record.circuit(endpoint.name).state is not State.OPEN for endpoint in self._endpoints)

    def providers_health(self) -> dict[str, dict[str, Any]]:
        """By provider; figures cover the whole service, those of other workers as they were a second ago."""
        self._record.refresh()
        now, wall = self._clock.monotonic(), self._clock.wall()
        return {
            endpoint.name: provider_health(
                endpoint, self._record.circuit(endpoint.name), self._record.figures(endpoint.name), now, wall
            )
            for endpoint in self._endpoints
        }

    def cache_health(self) -> dict[str, Any]:
        """Usage of the whole service's cache; warning above 90 % and critical above 95 % of a limit."""
        self._behind.settle()
        limits, totals = self._settings.cache, self._totals()
        usage = max(totals.size_bytes / (limits.max_size_mb * _MIB), totals.entries / limits.max_entries)
        status = "critical" if usage > 0.95 else "warning" if usage > 0.9 else "healthy"
        return {
            "status": status if limits.enabled else "disabled",
            "memory_usage_mb": round(totals.size_bytes / _MIB, 4),
            "max_memory_mb": limits.max_size_mb,
            "hit_rate": round(totals.hit_rate, 4),
            "entries": totals.entries,
            "max_entries": limits.max_entries,
            "evictions": totals.evictions,
            "flushes": totals.flushes,
            "expired": totals.expired,
        }

    def cache_metrics(self) -> dict[str, Any]:
        """`cache_health` and how many look-ups its hit rate is over."""
        health, totals = self.cache_health(), self._totals()
        return health | {"recent_hits": round(totals.hits), "recent_misses": round(totals.misses)}

    def evict_cache(self, *, expired: bool, fraction: float | None) -> dict[str, Any]:
        """Removes expired entries and then a fraction of the others, least recently used first. ApiError 503 when the
        store is busy."""
        self._behind.settle()
        evicted = self._insisted(lambda: self._cache.evict(expired=expired, fraction=fraction), 0)
        self._evictions.inc(by=evicted)
        self._refresh()
        totals = self._totals()
        return {"evicted": evicted, "entries": totals.entries, "memory_usage_mb": round(totals.size_bytes / _MIB, 4)}

    def flush_cache(self) -> dict[str, Any]:
        """Empties the cache for all workers. ApiError 503 when the store is busy."""
        self._behind.settle()
        flushed = self._insisted(self._cache.flush, 0)
        self._refresh()
        return {"flushed": flushed, "flushes": self._totals().flushes}

    def set_circuit(
        self, provider: str, state: Literal["open", "closed"], seconds: float, reason: str
    ) -> dict[str, Any]:
        """Forces a circuit open for `seconds`, or closes it; returns the provider's health. KeyError if unknown."""
        self._record.force(provider, State(state), seconds, reason)
        self._refresh()
        log.warning("provider %s: circuit forced %s for %g s: %s", provider, state, seconds, reason)
        return self.providers_health()[provider]

    def _directives(self, headers: Mapping[str, str]) -> Directives:
        if not self._settings.cache.enabled:
            return Directives(lookup=False, store=False)
        return directives(headers.get("cache-control", ""))

    def _find(self, key: bytes) -> Hit | None:
        gathered = self._behind.get(key)
        return self._guarded(lambda: self._cache.get(key), None) if gathered is None else Hit(gathered, 0.0)

    def _store(self, answers: list[tuple[bytes, bytes]], flushes: int | None) -> None:
        self._evictions.inc(by=self._guarded(lambda: self._cache.put_all(answers, flushes), 0))

    def _count(self, hit: bool) -> None:
        (self._hits if hit else self._misses).inc()
        self._counted[not hit] += 1

    def _totals(self) -> Totals:
        return self._guarded(self._cache.totals, Totals())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self._shared.replaced():
                self._shared.recover()
            self._share()
            self._recovery.tick()
            self._refresh()

    def _share(self) -> None:
        self._record.flush()
        hits, misses = self._counted
        if hits or misses:
            self._guarded(lambda: self._cache.count(hits, misses), None)
            self._counted = [0, 0]

    def _refresh(self) -> None:
        """Sets the gauges of what is shared."""
        totals, limits = self._totals(), self._settings.cache
        self._gauges["cache_entries"].set(totals.entries)
        self._gauges["cache_max_entries"].set(limits.max_entries)
        self._gauges["cache_size_bytes"].set(totals.size_bytes)
        self._gauges["cache_max_bytes"].set(limits.max_size_mb * _MIB)
        if totals.hits + totals.misses:
            rate = self._metrics.gauge("cache_hit_rate", "Share of the latest look-ups that hit.", combine="max")
            rate.set(totals.hit_rate)
        self._record.refresh()
        for endpoint in self._endpoints:
            self._circuits.set(_CIRCUIT_LEVEL[self._record.circuit(endpoint.name).state], endpoint.name)
            remaining = self._record.figures(endpoint.name).rate_limit_remaining
            if remaining is not None:
                self._metrics.gauge(
                    "rate_limit_remaining", "Requests that the provider still allows.", ("provider",), combine="max"
                ).set(remaining, endpoint.name)

    def _guarded(self, do: Callable[[], T], otherwise: T) -> T:
        """What the cache says, or `otherwise`: it is never needed for a correct answer."""
        try:
            return do()
        except StoreBrokenError:
            self._shared.recover()
        except StoreBusyError:
            pass
        return otherwise

    def _insisted(self, do: Callable[[], T], broken: T) -> T:
        try:
            return do()
        except StoreBrokenError:
            self._shared.recover()
            return broken
        except StoreBusyError as error:
            raise ApiError(503, "The cache is busy; try again.", type="server_error", code="cache_busy") from error


def _endpoint(provider: Provider) -> Endpoint:
    if isinstance(provider, LocalProvider):
        return local.endpoint(provider)
    if isinstance(provider, OpenAIProvider):
        return openai.endpoint(provider)
    raise ConfigError(f"kind {provider.kind} is not served by this version", key=f"providers.{provider.name}.kind")


def _parse(operation: Operation, body: bytes, request_id: str, caller: str) -> Call:
    """The request, or ApiError 400. Only what routing needs is judged; the rest is the provider's business."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not JSON: {error}", code="invalid_json", retryable=False) from error
    if not isinstance(fields, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_type", retryable=False)
    model, stream = fields.get("model"), fields.get("stream")
    subject, kinds, what = _SUBJECTS[operation]
    for param, right, expected in (
        ("model", isinstance(model, str) and bool(model), "a model's name"),
        (subject, isinstance(fields.get(subject), kinds), what),
        ("stream", stream is None or isinstance(stream, bool), "a boolean"),
    ):
        if not right:
            raise ApiError(400, f"'{param}' must be {expected}.", code="invalid_type", param=param, retryable=False)
    return Call(operation, body, fields, str(model), stream is True, request_id, caller)


def _from_cache(hit: Hit, request: Call, account: Account) -> Reply:
    headers = [_EVENT_STREAM if request.stream else _JSON, (b"x-cache", b"hit"), (b"age", b"%d" % hit.age)]
    if not request.stream:
        return Reply(200, headers, hit.body, account)
    return Reply(200, [*headers, _NO_CACHE], stream_of(orjson.loads(hit.body), usage=request.usage), account)
