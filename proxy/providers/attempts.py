"""Tries the providers of one request in order until one answers; nothing has been sent to the caller before that."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from proxy.call import Account, Call
from proxy.clock import Clock
from proxy.errors import ApiError
from proxy.metrics import Metrics
from proxy.providers.endpoint import Endpoint
from proxy.providers.record import ProviderRecord
from proxy.routing.order import plan
from proxy.routing.outcome import Failure, Fault, judge
from proxy.settings import Timeouts
from proxy.streaming import FAULT_OF_ENDING, Ending, OpenStream, Relay, open_stream, stream_of
from proxy.upstream import Answer, Upstream, UpstreamError

log = logging.getLogger(__name__)

TRIAL_SECONDS = 3.0
"""A trial of an open circuit has this long at the least until its first content."""
TRIAL_LATENCIES = 4
"""And this many times what the provider's answers have taken on average."""
_LEASE_MARGIN_SECONDS = 1.0
_CIRCUIT_AGE_SECONDS = 0.05
"""What another worker has learnt of a provider counts so much later at the latest."""
_DIGITS = 16
_JSON = b"application/json"
_EVENT_STREAM = b"text/event-stream"
_CALLER_IS_TOLD: dict[Fault, tuple[int, str, str]] = {
    Fault.AUTH: (502, "upstream_credentials_exhausted", "The provider refused the proxy's own credentials."),
    Fault.QUOTA: (429, "upstream_rate_limited", "The provider's rate limit is reached."),
    Fault.TIMEOUT: (504, "upstream_timeout", "The provider did not answer in time."),
    Fault.OUTAGE: (502, "upstream_error", "The provider failed to answer."),
    Fault.NETWORK: (502, "upstream_unreachable", "The provider could not be reached."),
    Fault.DNS: (502, "upstream_unreachable", "The provider could not be reached."),
    Fault.TLS: (502, "upstream_unreachable", "The provider could not be reached."),
    Fault.MALFORMED: (502, "upstream_malformed", "The provider's answer could not be understood."),
}
_LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Delivered:
    """A provider's final answer. `parsed` is a successful completion's JSON; `body` may be a stream."""

    provider: str
    status: int
    content_type: bytes
    body: bytes | AsyncIterator[bytes]
    parsed: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class _Try:
    endpoint: Endpoint
    limit_seconds: float


class Attempts:
    """The attempt loop of one worker."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        upstream: Upstream,
        record: ProviderRecord,
        timeouts: Timeouts,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._upstream = upstream
        self._record = record
        self._timeouts = timeouts
        self._clock = clock
        self._requests = metrics.counter("provider_requests_total", "Attempts at a provider.", ("provider",))
        self._errors = metrics.counter(
            "provider_errors_total", "Attempts that failed through the provider's fault.", ("provider", "class")
        )
        self._latency = metrics.histogram(
            "provider_latency_seconds",
            "From the attempt's begin to the whole answer, or to a stream's first content.",
            _LATENCY_BUCKETS,
            ("provider",),
        )
        self._malformed = metrics.counter(
            "provider_malformed_chunks_total", "Chunks left out of streams because they were not JSON.", ("provider",)
        )

    async def deliver(self, request: Call, account: Account) -> Delivered:
        """The first final answer. ApiError with the first provider's failure when all of them failed, 404 when none
        serves the model."""
        names = [name for name, endpoint in self._endpoints.items() if endpoint.serves(request.model)]
        if not names:
            raise ApiError(
                404,
                f"The model {request.model[:100]!r} is served by no provider.",
                code="model_not_found",
                param="model",
                retryable=False,
            )
        deadline = asyncio.get_running_loop().time() + self._timeouts.total
        failures: list[Failure] = []
        for attempt in self._tries(names, self._timeouts.first_byte if request.stream else self._timeouts.answer):
            account.attempts += 1
            outcome = await self._attempt(attempt, request, deadline)
            if isinstance(outcome, Delivered):
                account.provider = outcome.provider
                return outcome
            failures.append(outcome)
            if asyncio.get_running_loop().time() >= deadline:
                break
        raise error_of(failures[0])

    def _tries(self, names: Sequence[str], limit: float) -> Iterator[_Try]:
        """What to try next, decided as late as possible: a trial is claimed only when its turn has come."""
        self._record.refresh(older_than=_CIRCUIT_AGE_SECONDS)
        chosen = plan(names, self._record.circuit, self._clock.monotonic())
        for name in chosen.closed:
            yield _Try(self._endpoints[name], limit)
        tried = bool(chosen.closed)
        for name in chosen.trials:
            trial = self._trial_limit(name, limit)
            if self._record.claim(name, trial + _LEASE_MARGIN_SECONDS):
                tried = True
                yield _Try(self._endpoints[name], trial)
        if not tried:
            for name in chosen.last_resort:
                yield _Try(self._endpoints[name], limit)

    def _trial_limit(self, name: str, limit: float) -> float:
        """A trial gets less patience, so that one caller does not wait long for a provider that is still silent; but
        never less than several times what its answers have taken, or a slow one could not come back."""
        usual_ms = self._record.figures(name).latency_ms
        return limit if usual_ms is None else min(limit, max(TRIAL_SECONDS, TRIAL_LATENCIES * usual_ms / 1000))

    async def _attempt(self, attempt: _Try, request: Call, deadline: float) -> Delivered | Failure:
        name, began = attempt.endpoint.name, self._clock.monotonic()
        self._requests.inc(name)
        answer: Answer | None = None
        outcome: Delivered | OpenStream | Failure | None = None
        try:
            async with asyncio.timeout_at(min(asyncio.get_running_loop().time() + attempt.limit_seconds, deadline)):
                answer = await self._upstream.chat(attempt.endpoint, request.body, request.id)
                outcome = await _judged(name, answer, request)
        except TimeoutError:
            missing = "answer" if answer is None else "content"
            outcome = Failure(Fault.TIMEOUT, f"no {missing} within {attempt.limit_seconds:g} s")
        except UpstreamError as error:
            outcome = Failure(error.fault, str(error))
        finally:
            if answer is not None and not isinstance(outcome, OpenStream):
                answer.close()
        if isinstance(outcome, Failure):
            self._failed(name, began, outcome)
            return outcome
        took = self._clock.monotonic() - began
        self._latency.observe(took, name)
        remaining = _remaining(answer)
        if isinstance(outcome, Delivered):
            self._record.succeeded(name, began, took, remaining=remaining)
            return outcome
        self._record.opened(name, began)
        ended = partial(self._stream_ended, name, self._clock.monotonic(), took, remaining)
        relay = Relay(outcome, self._timeouts.idle, deadline, ended)
        return Delivered(name, 200, _EVENT_STREAM, relay, None)

    def _stream_ended(
        self, name: str, opened: float, took: float, remaining: int | None, ending: Ending, message: str, malformed: int
    ) -> None:
        """What a stream's end says of its provider; that the caller went away says nothing."""
        self._record.refresh()
        if malformed:
            self._malformed.inc(name, by=malformed)
        if ending is Ending.COMPLETE:
            self._record.succeeded(name, opened, took, remaining=remaining)
        elif fault := FAULT_OF_ENDING.get(ending):
            self._failed(name, opened, Failure(fault, message))

    def _failed(self, name: str, began: float, failure: Failure) -> None:
        self._errors.inc(name, failure.fault)
        self._record.failed(name, began, failure.fault, failure.message, failure.retry_after)
        log.info("provider %s: %s: %s", name, failure.fault, failure.message)


async def _judged(name: str, answer: Answer, request: Call) -> Delivered | OpenStream | Failure:
    """What an answer is, having read as much of it as that takes. UpstreamError if it is cut before."""
    good = 200 <= answer.status < 300
    if good and request.stream and answer.headers.get("content-type", "").startswith("text/event-stream"):
        return await open_stream(answer, request.choices)
    body = await answer.read()
    parsed = _object(body)
    error = parsed.get("error") if parsed is not None else None
    if not good:
        failure = judge(answer.status, answer.headers, body, error if isinstance(error, dict) else {})
        if failure is not None:
            return failure
        if not isinstance(error, dict):
            body = ApiError(answer.status, f"The provider answered {answer.status}.").body()
        return Delivered(name, answer.status, _JSON, body, None)
    if parsed is None or not _is_completion(parsed):
        return Failure(Fault.MALFORMED, f"{answer.status} without a completion in it")
    if request.stream:
        return Delivered(name, 200, _EVENT_STREAM, stream_of(parsed, usage=request.usage), None)
    return Delivered(name, answer.status, _JSON, body, parsed)


def error_of(failure: Failure) -> ApiError:
    """What the caller is told when no provider answered. How to reach the provider, and its words about our key, are
    the operator's business."""
    status, code, message = _CALLER_IS_TOLD[failure.fault]
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if failure.fault is Fault.OUTAGE and failure.status is not None:
        status = failure.status
    if failure.retry_after is not None and failure.fault is not Fault.AUTH:
        headers = ((b"retry-after", b"%d" % math.ceil(failure.retry_after)),)
    if failure.fault in (Fault.OUTAGE, Fault.QUOTA):
        error = (_object(failure.body) or {}).get("error")
        said = error.get("message") if isinstance(error, dict) else None
        message = said if isinstance(said, str) and said else message
    kind = "rate_limit_error" if failure.fault is Fault.QUOTA else "upstream_error"
    return ApiError(status, message, type=kind, code=code, retryable=False, headers=headers)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _is_completion(parsed: dict[str, Any]) -> bool:
    choices = parsed.get("choices")
    return isinstance(choices, list) and bool(choices) and all(isinstance(choice, dict) for choice in choices)


def _remaining(answer: Answer | None) -> int | None:
    value = "" if answer is None else answer.headers.get("x-ratelimit-remaining-requests", "")
    return int(value) if value.isdecimal() and len(value) < _DIGITS else None
