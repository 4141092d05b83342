"""Brings idle providers and dead keys back: asks for a models listing where no traffic has tried in time.

Costs at most one listing per provider and cooldown, made by one worker of all, and one for a dead key when its time has
come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence

from proxy.clock import Clock
from proxy.providers.board import Board
from proxy.providers.record import WHOLE, ProviderRecord
from proxy.providers.redaction import Redaction
from proxy.providers.sending import Lane
from proxy.routing.breaker import State
from proxy.routing.outcome import Failure, Fault, Rejected, judge
from proxy.upstream import Upstream, UpstreamError

_TRAFFIC_FIRST_SECONDS = 2.0
"""How long after a cooldown's end the trial is left to traffic."""
_PROBE_SECONDS = 3.0
_LEASE_SECONDS = 5.0


class Recovery:
    """Of one worker; `tick` is to be called about every second."""

    def __init__(
        self, lanes: Mapping[str, Lane], upstream: Upstream, record: ProviderRecord, board: Board, clock: Clock
    ) -> None:
        self._lanes = lanes
        self._upstream = upstream
        self._record = record
        self._board = board
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()

    def tick(self) -> None:
        """Starts what is due, each in a task of its own, so that a silent provider delays no other."""
        self._board.refresh()
        for name, lane in self._lanes.items():
            self._relieve(name, lane)
            if dead := lane.keys.dead_to_ask():
                if self._board.lease(b"ask key of " + name.encode(), _LEASE_SECONDS):
                    self._start(self._ask(name, lane, dead[0]))
            elif labels := self._due(name, lane):
                self._start(self._probe(name, lane, labels))

    async def close(self) -> None:
        """Cancels what is running."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _relieve(self, name: str, lane: Lane) -> None:
        """A circuit that opened because every key was limited has no cause any more once there is another key."""
        if lane.endpoint.keys and lane.keys.usable():
            labels = [label for label in self._record.suspects(name) if self._was_limited(name, label)]
            self._record.probed(name, labels, self._clock.monotonic(), None)

    def _was_limited(self, name: str, label: str) -> bool:
        circuit = self._record.circuit(name, label)
        return circuit.fault is Fault.QUOTA and circuit.state is State.OPEN and not circuit.forced

    def _due(self, name: str, lane: Lane) -> Sequence[str]:
        """Labels that one listing now would speak for; what is open is claimed. A closed circuit with a fault is asked
        for once no traffic has cleared it, and one that opened because no key was left as soon as there is one."""
        suspects = self._record.suspects(name)
        if not suspects or not lane.keys.usable():
            return ()
        now = self._clock.monotonic()
        whole = self._record.circuit(name)
        if whole.fault is Fault.AUTH and whole.state is State.OPEN and not whole.forced and lane.endpoint.keys:
            return [WHOLE] if self._lease(name) else ()
        if whole.state is not State.CLOSED and now < whole.until + _TRAFFIC_FIRST_SECONDS:
            return ()
        due, quiet = [], []
        for label in suspects:
            circuit = self._record.circuit(name, label)
            if circuit.state is not State.CLOSED and now >= circuit.until + _TRAFFIC_FIRST_SECONDS:
                due.append(label)
            elif circuit.state is State.CLOSED and now >= circuit.failed_at + _LEASE_SECONDS:
                quiet.append(label)
        if not (due or quiet) or not self._lease(name):
            return ()
        return [label for label in due if self._record.claim_one(name, label, _LEASE_SECONDS)] + quiet

    def _lease(self, name: str) -> bool:
        return self._board.lease(b"look after " + name.encode(), _LEASE_SECONDS)

    async def _probe(self, name: str, lane: Lane, labels: Sequence[str]) -> None:
        choice = lane.keys.choose(frozenset())
        if isinstance(choice, Failure):
            return
        began = self._clock.monotonic()
        failure, mark = await self._listing(lane, choice.id)
        if failure is not None:
            failure = lane.keys.failed(mark, failure)
            if failure is None:
                return
        else:
            lane.keys.worked(mark)
        self._record.probed(name, labels, began, failure)

    async def _ask(self, name: str, lane: Lane, key_id: str) -> None:
        """Whether a dead key has come to life again."""
        failure, mark = await self._listing(lane, key_id)
        if failure is None or failure.fault is Fault.QUOTA:
            lane.keys.worked(mark)
        elif failure.fault is Fault.AUTH:
            lane.keys.failed(mark, failure)

    async def _listing(self, lane: Lane, key_id: str | None) -> tuple[Failure | None, bytes]:
        """What one models listing says against the provider or the key, and the mark of the key. That there is no such
        listing says nothing."""
        secret, mark = lane.keys.secret(key_id)
        request = self._upstream.prepare(lane.endpoint.models_url, lane.endpoint.headers_with(secret))
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                answer = await self._upstream.get(request)
                try:
                    body = await answer.read()
                finally:
                    answer.close()
        except TimeoutError:
            return Failure(Fault.TIMEOUT, f"no models listing within {_PROBE_SECONDS:g} s"), mark
        except UpstreamError as error:
            return Failure(error.fault, str(error)), mark
        redaction = Redaction(lane.endpoint, secret)
        headers, said = redaction.headers(answer.headers), redaction.body(body)
        found = judge(answer.status, headers, said, self._clock.wall())
        return (None if isinstance(found, Rejected) else found), mark
