"""Puts the gateway of one worker together: cache first, then the providers, and what may be asked of both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.cache.plan import Hit, Plan
from proxy.cache.service import Caches, map_bytes
from proxy.call import Account, Call, Operation
from proxy.clock import Clock
from proxy.dialects import nesting
from proxy.dialects.contract import Whole
from proxy.eager import in_task
from proxy.errors import ApiError, ConfigError
from proxy.limits.admission import Limits
from proxy.metrics import Metrics
from proxy.providers.board import Board
from proxy.providers.service import Providers
from proxy.routing.breaker import State
from proxy.routing.keys import KeyState
from proxy.settings import Settings
from proxy.shared import Shared

_TICK_SECONDS = 1.0
_MAP_HEADROOM_BYTES = 32 * 1024 * 1024
WARMING = "warming"
"""The caller that the ledger names for what the caches ask by themselves."""
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
    Operation.MESSAGES: ("anthropic-beta",),
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
        self._damaged = metrics.counter(
            "shared_store_damaged_total", "How often the workers' shared store was found damaged and begun anew."
        )
        self._damage_told = 0
        self._ticking: asyncio.Task[None] | None = None
        self.settle: Callable[[Account, str, str, int, float], object] | None = None
        """Books a request of our own: account, id, caller, status, seconds. The app sets it."""

    async def start(self) -> None:
        """Opens the shared store and the pool. ConfigError if a secret or the state directory cannot be used."""
        settings = self._settings
        room = map_bytes(settings) + _MAP_HEADROOM_BYTES
        try:
            self._shared = Shared(settings.state_dir / "shared", room, self._clock)
        except OSError as error:
            raise ConfigError(f"{settings.state_dir} cannot be used: {error}", key="state_dir") from error
        self._caches = Caches(settings, self._shared, self._metrics, self._clock, self._ask_again, self.usable)
        board = Board(self._shared, self._clock)
        self.providers = Providers(settings, board, self._metrics, self._clock, self._limits.providers)
        self._limits.restraints.attach(board)
        self._refresh()
        self._ticking = asyncio.create_task(self._tick())

    async def close(self) -> None:
        """Shares the last figures and closes everything; streams must have ended."""
        if self._ticking is None:
            return
        self._ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticking
        self._caches.tick()
        await self._caches.close()
        await self.providers.close()
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
        filled in as far as the request comes. ApiError. Needs no task until a provider has to be asked."""
        account = account or Account(operation, "", stream=False)
        try:
            request = _parse(operation, body, headers, request_id, caller, int(self._clock.wall()))
            account.model_asked, account.stream = request.model, request.stream
            if request.stream:
                self._limits.streams.enter(caller, account)
            return await self._answer(request, headers, account)
        except ApiError as error:
            account.error = error.code or account.error
            raise

    async def _answer(self, request: Call, headers: Mapping[str, str], account: Account) -> Reply:
        plan = self._caches.plan(request, headers)
        hit = await plan.find()
        account.cache = plan.counted
        if hit is not None:
            return _from_cache(hit, request, plan, account)
        try:
            await in_task()
            delivered = await self.providers.deliver(request, account)
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
        streamed = request.stream and delivered.status == 200
        replied = [
            _EVENT_STREAM if streamed else _JSON,
            (b"x-provider", delivered.provider.encode("latin-1", "replace")),
            *plan.marks(None),
        ]
        if streamed:
            replied.append(_NO_CACHE)
        body = delivered.body
        if isinstance(body, bytes):
            if delivered.whole is not None:
                plan.store(delivered.whole)
            plan.release()
            return Reply(delivered.status, replied, body, account)
        if plan.keeps:
            body.keep(plan.store)
        return Reply(delivered.status, replied, _Watched(body, plan), account)

    async def _ask_again(self, call: Call) -> Whole | None:
        """A whole answer for the cache, on no caller's behalf."""
        account, began, status = Account(call.operation, call.model, stream=False), self._clock.monotonic(), 500
        try:
            delivered = await self.providers.deliver(call, account)
            status = delivered.status
        except ApiError as error:
            status = error.status
            raise
        finally:
            if self.settle is not None:
                self.settle(account, call.id, WARMING, status, self._clock.monotonic() - began)
        return delivered.whole

    @property
    def caches(self) -> Caches:
        """What operators may ask of the caches; there is none before `start`."""
        return self._caches

    def models(self) -> dict[str, Any]:
        """OpenAI's list object."""
        return self.providers.models()

    def usable(self) -> bool:
        """Whether at least one provider can be used."""
        return self.providers.usable()

    def providers_health(self) -> dict[str, dict[str, Any]]:
        """By provider; figures cover the whole service."""
        return self.providers.health()

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
        self, provider: str, state: State, seconds: float, reason: str, model: str | None = None
    ) -> dict[str, Any]:
        """Forces a provider's circuits, or that of one model there; returns its health. KeyError if unknown."""
        return self.providers.set_circuit(provider, model, state, seconds, reason)

    def set_key(self, provider: str, key_id: str, state: KeyState, grace_seconds: float) -> dict[str, Any]:
        """Retires a key of a provider or takes it back; returns the provider's health. KeyError if unknown."""
        return self.providers.set_key(provider, key_id, state, grace_seconds)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self._shared.replaced():
                self._shared.recover()
            self._caches.tick()
            self._caches.refresh()
            self.providers.tick()
            self._tell_damage()

    def _refresh(self) -> None:
        """Sets the gauges of what is shared."""
        self._caches.refresh()
        self.providers.refresh()
        self._tell_damage()

    def _tell_damage(self) -> None:
        if fresh := self._shared.set_aside - self._damage_told:
            self._damaged.inc(by=fresh)
            self._damage_told += fresh


def _parse(
    operation: Operation, body: bytes, headers: Mapping[str, str], request_id: str, caller: str, now: int
) -> Call:
    """The request, or ApiError 400. Only what routing needs is judged; the rest is the provider's business."""
    try:
        fields = nesting.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not JSON: {error}", code="invalid_json", retryable=False) from error
    except ValueError as error:
        raise ApiError(400, f"The body is {error}.", code="invalid_json", retryable=False) from error
    if not isinstance(fields, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_type", retryable=False)
    model, stream = fields.get("model"), fields.get("stream")
    subject, kinds, what = _SUBJECTS[operation]
    if not isinstance(model, str) or not model:
        raise _unfit("model", "a model's name")
    if not isinstance(fields.get(subject), kinds):
        raise _unfit(subject, what)
    if stream is not None and not isinstance(stream, bool):
        raise _unfit("stream", "a boolean")
    passed = tuple([(name, headers[name]) for name in _PASSED[operation] if name in headers])
    return Call(operation, body, fields, model, stream is True, request_id, caller, passed, now)


def _unfit(param: str, expected: str) -> ApiError:
    return ApiError(400, f"'{param}' must be {expected}.", code="invalid_type", param=param, retryable=False)


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
