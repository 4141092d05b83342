"""Carries one request through its candidates until one answers; nothing has been sent to the caller before that.

What is tried next is decided in `routing.retry`; this file looks up what that asks for, and does what it says.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from proxy.call import Account, Call, Operation
from proxy.clock import Clock
from proxy.dialects.contract import Translation, Whole
from proxy.dialects.registry import translation
from proxy.eager import in_task
from proxy.errors import ApiError
from proxy.providers.board import Board
from proxy.providers.continuing import Continuation, Serving
from proxy.providers.endpoint import Endpoint
from proxy.providers.record import ProviderRecord
from proxy.providers.sending import Lane, Sender
from proxy.providers.telling import error_of, not_served
from proxy.providers.world import OwnLimits, World
from proxy.routing.candidates import Candidate, Catalogue, Served, suited
from proxy.routing.cost import cost_usd
from proxy.routing.outcome import Failure, Refusal, Rejected
from proxy.routing.retry import Ask, Pause, Policy, Told, proceed, pursue
from proxy.settings import Model, Settings
from proxy.streams.contract import OpenStream
from proxy.streams.relay import Limits, Relay

_NEWS_AGE_SECONDS = 0.05
"""What another worker has learnt of a provider counts so much later at the latest."""


class Delivered(NamedTuple):
    """A final answer in the caller's dialect. A body that is a Relay is a stream, which must be closed.

    `whole` is a good answer that came whole, though it may go to the caller as a stream; a refusal has none.
    """

    provider: str
    status: int
    body: bytes | Relay
    whole: Whole | None = None


class Attempts:
    """The attempt loop of one worker. `lanes` are in the order of preference."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        catalogues: Mapping[Operation, Catalogue],
        sender: Sender,
        record: ProviderRecord,
        board: Board,
        settings: Settings,
        clock: Clock,
        own_limits: OwnLimits | None = None,
    ) -> None:
        self._sender = sender
        self._board = board
        self._clock = clock
        self._timeouts = settings.timeouts
        self._streams = settings.streams
        retry = settings.retry
        self._policy = Policy(retry.rounds, retry.pause_initial, retry.pause_max, retry.attempts, retry.retry_after_max)
        self._whole = World(lanes, record, own_limits, settings.timeouts.answer)
        self._streamed = World(lanes, record, own_limits, settings.timeouts.first_byte)
        self._translations = _translations(lanes)
        self._catalogues = catalogues

    @staticmethod
    def catalogues(lanes: Mapping[str, Lane], models: Sequence[Model]) -> dict[Operation, Catalogue]:
        """Which candidates each operation has: those whose provider's dialect can say it."""
        return {
            operation: Catalogue([_served(lanes[name].endpoint) for name in found], models)
            for operation, found in _translations(lanes).items()
        }

    async def deliver(self, call: Call, account: Account) -> Delivered:
        """The final answer. ApiError with the first provider's failure when all of them failed, 404 when none serves
        the model."""
        await in_task()
        began, now = self._clock.monotonic(), asyncio.get_running_loop().time
        candidates = suited(self._catalogues[call.operation].candidates(call.model), call)
        if not candidates:
            account.error = "model_not_found"
            raise not_served(call.model)
        self._board.refresh(older_than=_NEWS_AGE_SECONDS)
        deadline = now() + self._timeouts.total
        world = self._streamed if call.stream else self._whole
        translations = self._translations[call.operation]
        spared = world.spared(candidates)
        course = pursue(
            candidates, self._policy, world, now=now, jitter=random.random, deadline=deadline, spared=spared
        )
        step = proceed(course, None)
        while not isinstance(step, Told):
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                self._board.refresh(older_than=_NEWS_AGE_SECONDS)
                step = proceed(course, None)
                continue
            candidate, key_id = step.candidate, step.key.id
            limit, speaks = world.limit(candidate, trial=step.trial), translations[candidate.provider]
            account.attempts += 1
            outcome = await self._sender.send(call, candidate, key_id, speaks, limit, deadline)
            if isinstance(outcome, Whole):
                account.provider, account.key_id = candidate.provider, key_id
                return _answered(call, speaks, candidate, outcome, account)
            if isinstance(outcome, OpenStream):
                account.first_content_seconds = self._clock.monotonic() - began
                relay = self._relay(call, account, candidates, Serving(candidate, key_id), outcome, deadline)
                return Delivered(candidate.provider, 200, relay)
            step = proceed(course, outcome)
        return self._told(call, step, account)

    def _told(self, call: Call, told: Told, account: Account) -> Delivered:
        """What the caller hears. ApiError unless it is a provider's own refusal."""
        outcome, provider = told.outcome, told.candidate.provider
        account.provider = provider
        if isinstance(outcome, Failure):
            account.error = outcome.fault
            raise error_of(outcome)
        account.error = outcome.refusal
        if not outcome.body:
            raise ApiError(outcome.status, outcome.message, retryable=False)
        speaks = self._translations[call.operation][provider]
        return Delivered(provider, outcome.status, speaks.error(outcome.status, outcome.body))

    def _relay(
        self,
        call: Call,
        account: Account,
        candidates: Sequence[Candidate],
        serving: Serving,
        stream: OpenStream,
        deadline: float,
    ) -> Relay:
        account.provider, account.key_id = serving.candidate.provider, serving.key_id
        speaks, streams = self._translations[call.operation][serving.candidate.provider], self._streams
        left = streams.continuations if streams.after_cut == "continue" else 0
        continuation = Continuation(call, account, candidates, serving, deadline, left, self._another)
        return Relay(
            stream,
            speaks.encoder(call),
            Limits(self._timeouts.idle, deadline),
            continuation.settled,
            same=speaks.same,
            bare_usage=call.usage,
            resume=continuation.resume if left else None,
        )

    async def _another(
        self, candidates: Sequence[Candidate], asks: Callable[[Candidate], Call], account: Account, deadline: float
    ) -> tuple[Serving, OpenStream] | list[Candidate]:
        """See `continuing.Another`."""
        self._board.refresh(older_than=_NEWS_AGE_SECONDS)
        policy, now, world = replace(self._policy, rounds=0), asyncio.get_running_loop().time, self._streamed
        course = pursue(candidates, policy, world, now=now, jitter=random.random, deadline=deadline, accepted=True)
        refused: list[Candidate] = []
        step = proceed(course, None)
        while isinstance(step, Ask):
            candidate, key_id = step.candidate, step.key.id
            limit, speaks = world.limit(candidate, trial=step.trial), self._translations[account.operation]
            account.attempts += 1
            call = asks(candidate)
            outcome = await self._sender.send(call, candidate, key_id, speaks[candidate.provider], limit, deadline)
            if isinstance(outcome, OpenStream):
                return Serving(candidate, key_id), outcome
            if isinstance(outcome, Whole):
                outcome = Rejected(Refusal.REQUEST, 400, b"", "the answer is not a stream")
            if isinstance(outcome, Rejected):
                refused.append(candidate)
            step = proceed(course, outcome)
        return refused


def _answered(call: Call, speaks: Translation, candidate: Candidate, whole: Whole, account: Account) -> Delivered:
    account.model, account.usage, account.finish = whole.model or candidate.model, whole.usage, whole.finish
    account.cost_usd = cost_usd(candidate.price, whole.usage)
    if not call.stream:
        return Delivered(candidate.provider, 200, whole.body, whole)
    return Delivered(candidate.provider, 200, speaks.replayed(call, whole.body) or whole.body, whole)


def _translations(lanes: Mapping[str, Lane]) -> dict[Operation, dict[str, Translation]]:
    return {
        operation: {
            name: found
            for name, lane in lanes.items()
            if (found := translation(operation, lane.endpoint.dialect)) is not None
        }
        for operation in Operation
    }


def _served(endpoint: Endpoint) -> Served:
    return Served(endpoint.name, endpoint.models, endpoint.listed)
