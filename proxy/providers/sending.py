"""One attempt: the request goes to one provider with one key, and what comes back is judged and written down."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from proxy.call import Call
from proxy.clock import Clock
from proxy.dialects.contract import MalformedError, NotTranslatableError, Translation, Whole
from proxy.metrics import Metrics
from proxy.providers.endpoint import Endpoint
from proxy.providers.keyring import Keyring
from proxy.providers.record import ProviderRecord, public_message
from proxy.providers.redaction import Redaction
from proxy.routing.candidates import Candidate
from proxy.routing.outcome import Failure, Fault, Refusal, Rejected, judge
from proxy.streams.contract import FAULT_OF_ENDING, Ending, OpenStream
from proxy.streams.opening import open_stream
from proxy.upstream import Answer, Prepared, Upstream, UpstreamError

log = logging.getLogger(__name__)

_DIGITS = 16
_REMAINING = ("x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining")
_MOST_PREPARED = 1000
_LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Lane:
    """A provider with all that an attempt there takes."""

    endpoint: Endpoint
    keys: Keyring


class Sender:
    """Of one worker."""

    def __init__(
        self, lanes: Mapping[str, Lane], upstream: Upstream, record: ProviderRecord, metrics: Metrics, clock: Clock
    ) -> None:
        self._lanes = lanes
        self._upstream = upstream
        self._record = record
        self._clock = clock
        self._prepared: dict[tuple[str, str, bytes], tuple[Prepared, Redaction]] = {}
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

    async def send(
        self,
        call: Call,
        candidate: Candidate,
        key_id: str | None,
        translation: Translation,
        limit_seconds: float,
        deadline: float,
    ) -> Whole | OpenStream | Failure | Rejected:
        """What came of it, already written down. `deadline` is on the event loop's clock.

        A stream has had its first content; its end is written down by its `at_end`.
        """
        name, endpoint = candidate.provider, self._lanes[candidate.provider].endpoint
        try:
            body = translation.request(
                call, candidate.model, stream_usage=endpoint.stream_usage, max_tokens=endpoint.max_tokens
            )
        except NotTranslatableError as error:
            return Rejected(Refusal.DIALECT, 400, b"", str(error))
        prepared, redaction, mark = self._prepare(candidate, key_id, translation.path)
        extra = (("x-request-id", call.id), *call.passed) if translation.same else (("x-request-id", call.id),)
        began = self._clock.monotonic()
        self._requests.inc(name)
        answer: Answer | None = None
        outcome: Whole | OpenStream | Failure | Rejected | None = None
        now = asyncio.get_running_loop().time()
        try:
            answer = await self._upstream.post(prepared, extra, body, min(now + limit_seconds, deadline))
            outcome = await self._judged(answer, call, translation, redaction)
        except TimeoutError:
            missing = "answer" if answer is None else "content"
            had = min(limit_seconds, deadline - now)
            outcome = Failure(Fault.TIMEOUT, f"no {missing} within {had:.3g} s")
            if had < limit_seconds / 2:
                return outcome  # what other routes have left of the time is no measure of this one
        except UpstreamError as error:
            outcome = Failure(error.fault, str(error))
        finally:
            if answer is not None and not isinstance(outcome, OpenStream):
                answer.close()
        if isinstance(outcome, OpenStream):
            outcome.redact = redaction.text
            outcome.answer.until = math.inf  # from here on the relay has limits of its own
        return self._noted(candidate, mark, began, answer, outcome)

    async def _judged(
        self, answer: Answer, call: Call, translation: Translation, redaction: Redaction
    ) -> Whole | OpenStream | Failure | Rejected:
        """What an answer is, having read as much of it as that takes. UpstreamError if it is cut before."""
        status = answer.status
        good = 200 <= status < 300
        if good and call.stream and answer.headers.get("content-type", "").startswith("text/event-stream"):
            opened = await open_stream(answer, translation.decoder(call))
            return replace(opened, message=redaction.text(opened.message)) if isinstance(opened, Failure) else opened
        body = await answer.read()
        if not good:
            found = judge(status, redaction.headers(answer.headers), redaction.body(body), self._clock.wall())
            assert found is not None
            return found
        try:
            return translation.whole(call, body)
        except MalformedError as error:
            return Failure(Fault.MALFORMED, redaction.text(f"{status}: {error}"))

    def _noted(
        self,
        candidate: Candidate,
        mark: bytes,
        began: float,
        answer: Answer | None,
        outcome: Whole | OpenStream | Failure | Rejected,
    ) -> Whole | OpenStream | Failure | Rejected:
        name, label = candidate.provider, candidate.label
        if isinstance(outcome, Failure):
            return self._failed(candidate, mark, began, outcome)
        self._lanes[name].keys.worked(mark)
        if isinstance(outcome, Rejected):
            self._record.opened(name, label, began)
            return outcome
        took = self._clock.monotonic() - began
        self._latency.observe(took, name)
        remaining = _remaining(answer)
        if isinstance(outcome, Whole):
            self._record.succeeded(name, label, began, took, remaining=remaining)
            return outcome
        self._record.opened(name, label, began)
        outcome.at_end = partial(self._stream_ended, candidate, mark, self._clock.monotonic(), took, remaining)
        return outcome

    def _stream_ended(
        self,
        candidate: Candidate,
        mark: bytes,
        opened: float,
        took: float,
        remaining: int | None,
        ending: Ending,
        message: str,
        malformed: int,
    ) -> None:
        """What a stream's end says of its provider; that the caller went away says nothing."""
        name = candidate.provider
        if malformed:
            self._malformed.inc(name, by=malformed)
        if ending is Ending.COMPLETE:
            self._record.succeeded(name, candidate.label, opened, took, remaining=remaining)
        elif fault := FAULT_OF_ENDING.get(ending):
            self._failed(candidate, mark, opened, Failure(fault, message))

    def _failed(self, candidate: Candidate, mark: bytes, began: float, failure: Failure) -> Failure:
        name = candidate.provider
        self._errors.inc(name, failure.fault)
        log.info("provider %s: %s: %s", name, failure.fault, public_message(failure))
        of_provider = self._lanes[name].keys.failed(mark, failure)
        if of_provider is None:
            self._record.noted(name, candidate.label, failure)
            return failure
        self._record.failed(name, candidate.label, began, of_provider)
        return replace(failure, retry_after=of_provider.retry_after)

    def _prepare(self, candidate: Candidate, key_id: str | None, path: str) -> tuple[Prepared, Redaction, bytes]:
        """The request but for its body, made once, what must not be told of it, and the mark of the key in it."""
        lane = self._lanes[candidate.provider]
        secret, mark = lane.keys.secret(key_id)
        place = (candidate.provider, f"{candidate.model} {path}" if lane.endpoint.deployments else path, mark)
        prepared = self._prepared.get(place)
        if prepared is None:
            if len(self._prepared) >= _MOST_PREPARED:
                self._prepared.clear()
            url = lane.endpoint.url(path, candidate.model)
            prepared = (
                self._upstream.prepare(url, lane.endpoint.headers_with(secret)),
                Redaction(lane.endpoint, secret),
            )
            self._prepared[place] = prepared
        return *prepared, mark


def _remaining(answer: Answer | None) -> int | None:
    """How many more requests the provider says that it allows."""
    if answer is None:
        return None
    for name in _REMAINING:
        value = answer.headers.get(name, "")
        if value.isdecimal() and len(value) < _DIGITS:
            return int(value)
    return None
