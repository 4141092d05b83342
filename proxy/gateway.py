"""Puts the gateway of one worker together: cache first, then the providers, and what may be asked of both."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from proxy.cache.plan import Hit, Plan
from proxy.cache.service import Caches, map_bytes
from proxy.call import Account, Call, Operation
from proxy.clock import Clock
from proxy.dialects.contract import Whole
from proxy.dialects.openai import whole_of
from proxy.errors import ApiError, ConfigError
from proxy.limits.admission import Limits
from proxy.metrics import Metrics
from proxy.providers import local, openai
from proxy.providers.attempts import Attempts
from proxy.providers.endpoint import Endpoint
from proxy.providers.health import provider_health
from proxy.providers.record import ProviderRecord
from proxy.providers.recovery import Recovery
from proxy.routing.breaker import Policy, State
from proxy.settings import LocalProvider, OpenAIProvider, Provider, Settings
from proxy.shared import Shared
from proxy.upstream import Upstream

log = logging.getLogger(__name__)

_TICK_SECONDS = 1.0
_MAP_HEADROOM_BYTES = 32 * 1024 * 1024
_CIRCUIT_LEVEL = {State.CLOSED: 0.0, State.HALF_OPEN: 1.0, State.OPEN: 2.0}
_MAY_BE_RESCUED = frozenset((429, *range(500, 600)))
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
_OPENAI_HEADERS = ("openai-organization", "openai-project")
_PASSED: dict[Operation, tuple[str, ...]] = {
    Operation.CHAT: _OPENAI_HEADERS,
    Operation.MESSAGES: ("anthropic-beta", "anthropic-version"),
    Operation.COMPLETIONS: _OPENAI_HEADERS,
    Operation.EMBEDDINGS: _OPENAI_HEADERS,
}
"""Headers that a provider of the caller's own dialect is told too."""


@dataclass(slots=True)
class Reply:
    """An answer to the caller; a `body` that is an iterator is a stream, and must be closed with `aclose`."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | AsyncIterator[bytes]
    account: Account | None


class Gateway:
    """One per worker. Everything but `answer` is quick and may be called from any handler."""

    def __init__(self, settings: Settings, metrics: Metrics, clock: Clock, limits: Limits | None = None) -> None:
        """`limits` are those of the app too; None: of its own."""
        self._limits = limits or Limits(settings, metrics, clock)
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._circuits = metrics.gauge(
            "provider_circuit_state", "0 closed, 1 half-open, 2 open.", ("provider",), combine="max"
        )
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the shared store and the pool. ConfigError if a secret or the state directory cannot be used."""
        settings, breaker = self._settings, self._settings.breaker
        self._endpoints = tuple(_endpoint(provider) for provider in settings.providers)
        room = map_bytes(settings) + _MAP_HEADROOM_BYTES
        try:
            self._shared = Shared(settings.state_dir / "shared", room, self._clock)
        except OSError as error:
            raise ConfigError(f"{settings.state_dir} cannot be used: {error}", key="state_dir") from error
        self._caches = Caches(settings, self._shared, self._metrics, self._clock, self._ask_again, self.usable)
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
        self._share()
        await self._caches.close()
        await self._upstream.close()
        self._shared.close()
        self._ticking = None

    async def answer(
        self,
        operation: Operation,
        body: bytes,
        headers: Mapping[str, str],
        caller: str,
        request_id: str,
        account: Account | None = None,
    ) -> Reply:
        """Answers from the cache or a provider. `headers` are lower-case, `caller` is the id of a key; `account` is
        filled in as far as the request comes. ApiError."""
        account = account or Account(operation, "", stream=False)
        try:
            request = _parse(operation, body, headers, request_id, caller, int(self._clock.wall()))
            account.model_asked, account.stream = request.model, request.stream
            if request.stream:
                self._limits.streams.enter(caller, account)
            return await self._answer(request, headers, account)
        except ApiError as error:
            account.error = error.code
            raise

    async def _answer(self, request: Call, headers: Mapping[str, str], account: Account) -> Reply:
        plan = self._caches.plan(request, headers)
        hit = await plan.find()
        account.cache = plan.counted
        if hit is not None:
            return _from_cache(hit, request, plan, account)
        try:
            delivered = await self._attempts.deliver(request, account)
        except ApiError as error:
            plan.release()
            hit = plan.rescue() if error.status in _MAY_BE_RESCUED else None
            if hit is None:
                raise
            account.cache = "hit"
            return _from_cache(hit, request, plan, account)
        except BaseException:
            plan.release()
            raise
        replied = [
            (b"content-type", delivered.content_type),
            (b"x-provider", delivered.provider.encode("latin-1", "replace")),
            *plan.marks(None),
        ]
        if isinstance(delivered.body, bytes):
            if delivered.parsed is not None:
                plan.store(whole_of(delivered.body))
            plan.release()
        watched = delivered.body if isinstance(delivered.body, bytes) else _Watched(delivered.body, plan)
        if request.stream and delivered.status == 200:
            replied.append(_NO_CACHE)
        return Reply(delivered.status, replied, watched, account)

    async def _ask_again(self, call: Call) -> Whole | None:
        """A whole answer for the cache, on no caller's behalf."""
        delivered = await self._attempts.deliver(call, Account(call.operation, call.model, stream=False))
        if delivered.parsed is None or not isinstance(delivered.body, bytes):
            return None
        return whole_of(delivered.body)

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

    @property
    def caches(self) -> Caches:
        """What operators may ask of the caches; there is none before `start`."""
        return self._caches

    def cache_health(self) -> dict[str, Any]:
        """Usage of the whole service's caches."""
        return self._caches.health()

    def cache_metrics(self) -> dict[str, Any]:
        """`cache_health`, and what is counted besides."""
        return self._caches.metrics()

    def evict_cache(self, *, expired: bool, fraction: float | None) -> dict[str, Any]:
        """Removes expired entries and then a fraction of the others. ApiError 503 when the store is busy."""
        return self._caches.evict(expired=expired, fraction=fraction)

    def flush_cache(self) -> dict[str, Any]:
        """Empties the caches for all workers. ApiError 503 when the store is busy."""
        return self._caches.flush()

    def set_circuit(
        self, provider: str, state: Literal["open", "closed"], seconds: float, reason: str
    ) -> dict[str, Any]:
        """Forces a circuit open for `seconds`, or closes it; returns the provider's health. KeyError if unknown."""
        self._record.force(provider, State(state), seconds, reason)
        self._refresh()
        log.warning("provider %s: circuit forced %s for %g s: %s", provider, state, seconds, reason)
        return self.providers_health()[provider]

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
        self._caches.tick()

    def _refresh(self) -> None:
        """Sets the gauges of what is shared."""
        self._caches.refresh()
        self._record.refresh()
        for endpoint in self._endpoints:
            self._circuits.set(_CIRCUIT_LEVEL[self._record.circuit(endpoint.name).state], endpoint.name)
            remaining = self._record.figures(endpoint.name).rate_limit_remaining
            if remaining is not None:
                self._metrics.gauge(
                    "rate_limit_remaining", "Requests that the provider still allows.", ("provider",), combine="max"
                ).set(remaining, endpoint.name)


def _endpoint(provider: Provider) -> Endpoint:
    if isinstance(provider, LocalProvider):
        return local.endpoint(provider)
    if isinstance(provider, OpenAIProvider):
        return openai.endpoint(provider)
    raise ConfigError(f"kind {provider.kind} is not served by this version", key=f"providers.{provider.name}.kind")


def _parse(
    operation: Operation, body: bytes, headers: Mapping[str, str], request_id: str, caller: str, now: int
) -> Call:
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
    passed = tuple((name, headers[name]) for name in _PASSED[operation] if name in headers)
    return Call(operation, body, fields, str(model), stream is True, request_id, caller, passed, now)


def _from_cache(hit: Hit, request: Call, plan: Plan, account: Account) -> Reply:
    headers = [_EVENT_STREAM if request.stream else _JSON, *plan.marks(hit)]
    if request.stream:
        headers.append(_NO_CACHE)
    return Reply(200, headers, hit.body, account)


class _Watched:
    """A stream whose end, whichever it is, ends the plan too."""

    __slots__ = ("_body", "_plan")

    def __init__(self, body: AsyncIterator[bytes], plan: Plan) -> None:
        self._body = body
        self._plan = plan

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        return self._body.__anext__()

    async def aclose(self) -> None:
        try:
            close = getattr(self._body, "aclose", None)
            if close is not None:
                await close()
        finally:
            self._plan.release()
