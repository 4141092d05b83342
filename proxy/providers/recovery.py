"""Brings idle providers back: asks one that failed for its models listing when no traffic has tried it in time.

Costs at most one listing per provider and cooldown, made by one worker of all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson

from proxy.clock import Clock
from proxy.providers.endpoint import Endpoint
from proxy.providers.record import ProviderRecord
from proxy.routing.breaker import Circuit, State
from proxy.routing.outcome import Fault, judge
from proxy.upstream import Upstream, UpstreamError

_TRAFFIC_FIRST_SECONDS = 2.0
"""How long after a cooldown's end the trial is left to traffic."""
_PROBE_SECONDS = 3.0
_LEASE_SECONDS = 5.0


class Recovery:
    """Of one worker; `tick` is to be called about every second."""

    def __init__(self, endpoints: Sequence[Endpoint], upstream: Upstream, record: ProviderRecord, clock: Clock) -> None:
        self._endpoints = endpoints
        self._upstream = upstream
        self._record = record
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()

    def tick(self) -> None:
        """Starts the probes that are due, each in a task of its own, so that a silent provider delays no other."""
        self._record.refresh()
        now = self._clock.monotonic()
        for endpoint in self._endpoints:
            if self._due(endpoint.name, self._record.circuit(endpoint.name), now):
                task = asyncio.create_task(self._probe(endpoint))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Cancels what is running."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _due(self, name: str, circuit: Circuit, now: float) -> bool:
        """An open circuit's trial is claimed; a closed one with a fault is asked once no traffic has cleared it."""
        if circuit.state is not State.CLOSED:
            return now >= circuit.until + _TRAFFIC_FIRST_SECONDS and self._record.claim(name, _LEASE_SECONDS)
        quiet = now >= circuit.failed_at + _LEASE_SECONDS
        return circuit.fault is not None and quiet and self._record.lease(name, _LEASE_SECONDS)

    async def _probe(self, endpoint: Endpoint) -> None:
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                answer, body = await self._upstream.models(endpoint)
        except TimeoutError:
            self._record.probed(endpoint.name, began, Fault.TIMEOUT, f"no models listing within {_PROBE_SECONDS:g} s")
        except UpstreamError as error:
            self._record.probed(endpoint.name, began, error.fault, str(error))
        else:
            failure = judge(answer.status, answer.headers, body, _error_of(body))
            fault, message = (None, "") if failure is None else (failure.fault, failure.message)
            self._record.probed(endpoint.name, began, fault, message)


def _error_of(body: bytes) -> dict[str, object]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return error if isinstance(error, dict) else {}
