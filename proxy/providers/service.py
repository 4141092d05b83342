"""The providers of one worker put together: what the gateway asks of them for each request, and what operators may."""

from __future__ import annotations

import logging
from typing import Any

from proxy.call import Account, Call, Operation
from proxy.clock import Clock
from proxy.metrics import Metrics
from proxy.providers.attempts import Attempts, Delivered
from proxy.providers.board import Board
from proxy.providers.health import overall, provider_health
from proxy.providers.keyring import Keyring
from proxy.providers.kinds import endpoint_of
from proxy.providers.record import ProviderRecord
from proxy.providers.recovery import Recovery
from proxy.providers.sending import Lane, Sender
from proxy.providers.world import OwnLimits
from proxy.routing.breaker import Policy, State
from proxy.routing.keys import KeyState
from proxy.settings import Settings
from proxy.upstream import Upstream

log = logging.getLogger(__name__)

_CIRCUIT_LEVEL = {State.CLOSED: 0.0, State.HALF_OPEN: 1.0, State.OPEN: 2.0}


class Providers:
    """One per worker; everything but `deliver` and `close` is quick."""

    def __init__(
        self, settings: Settings, board: Board, metrics: Metrics, clock: Clock, own_limits: OwnLimits | None = None
    ) -> None:
        """To be made inside the running event loop. ConfigError if a key's file cannot be used."""
        breaker, endpoints = settings.breaker, [endpoint_of(provider) for provider in settings.providers]
        self._clock = clock
        self._board = board
        self._lanes = {endpoint.name: Lane(endpoint, Keyring(endpoint, self._board, clock)) for endpoint in endpoints}
        self._upstream = Upstream(settings.timeouts.connect)
        policy = Policy(
            breaker.consecutive_failures,
            breaker.error_ratio,
            breaker.min_requests,
            breaker.cooldown,
            breaker.cooldown_max,
        )
        catalogues = Attempts.catalogues(self._lanes, settings.models)
        labels = {
            name: list(dict.fromkeys(label for found in catalogues.values() for label in found.labels_of(name)))
            for name in self._lanes
        }
        self._listing = catalogues[Operation.CHAT].listing()
        self._record = ProviderRecord(self._board, labels, policy, breaker.window, clock)
        sender = Sender(self._lanes, self._upstream, self._record, metrics, clock)
        self._attempts = Attempts(
            self._lanes, catalogues, sender, self._record, self._board, settings, clock, own_limits
        )
        self._recovery = Recovery(self._lanes, self._upstream, self._record, self._board, clock)
        self._circuits = metrics.gauge(
            "provider_circuit_state", "0 closed, 1 half-open, 2 open.", ("provider",), combine="max"
        )
        self._remaining = metrics.gauge(
            "rate_limit_remaining", "Requests that the provider still allows.", ("provider",), combine="max"
        )

    async def close(self) -> None:
        """Shares the last figures and closes every connection; streams must have ended."""
        await self._recovery.close()
        self._record.flush()
        await self._upstream.close()

    async def deliver(self, call: Call, account: Account) -> Delivered:
        """The final answer of a provider; see `Attempts.deliver`. ApiError."""
        return await self._attempts.deliver(call, account)

    def tick(self) -> None:
        """To be called about every second: shares figures, looks after keys' files, starts probes that are due."""
        self._record.flush()
        for lane in self._lanes.values():
            lane.keys.tick()
        self._recovery.tick()
        self.refresh()

    def refresh(self) -> None:
        """Sets the gauges of what is shared."""
        self._board.refresh()
        now = self._clock.monotonic()
        for name in self._lanes:
            view = self._record.view(name)
            self._circuits.set(_CIRCUIT_LEVEL[overall(view, now).state], name)
            known = [part.rate_limit_remaining for part in view.figures.values()]
            if (remaining := next((value for value in known if value is not None), None)) is not None:
                self._remaining.set(remaining, name)

    def models(self) -> dict[str, Any]:
        """OpenAI's list object: each model and alias that the configuration names, owned by the provider that it goes
        to first."""
        listed = [
            {"id": model, "object": "model", "created": 0, "owned_by": provider} for model, provider in self._listing
        ]
        return {"object": "list", "data": listed}

    def usable(self) -> bool:
        """Whether at least one provider has a circuit that is not open, and a key for it."""
        self._board.refresh()
        now = self._clock.monotonic()
        return any(
            lane.keys.usable() and overall(self._record.view(name), now).state is not State.OPEN
            for name, lane in self._lanes.items()
        )

    def health(self) -> dict[str, dict[str, Any]]:
        """By provider; figures cover the whole service, those of other workers as they were a second ago."""
        self._board.refresh()
        now, wall = self._clock.monotonic(), self._clock.wall()
        return {
            name: provider_health(self._record.view(name), lane.keys.health(), now, wall)
            for name, lane in self._lanes.items()
        }

    def set_circuit(
        self, provider: str, model: str | None, state: State, seconds: float, reason: str
    ) -> dict[str, Any]:
        """Forces the circuits of a provider, or of one model there, open for `seconds`, or closes them; returns the
        provider's health. KeyError if unknown."""
        self._record.force(provider, model, state, seconds, reason)
        self.refresh()
        what = provider if model is None else f"{provider}, model {model}"
        log.warning("provider %s: circuit forced %s for %g s: %s", what, state, seconds, reason)
        return self.health()[provider]

    def set_key(self, provider: str, key_id: str, state: KeyState, grace_seconds: float) -> dict[str, Any]:
        """Retires a key after a grace, in which it is a spare, or makes it active again; returns the provider's health.
        KeyError if unknown."""
        self._board.refresh()
        self._lanes[provider].keys.set_state(key_id, state, grace_seconds)
        return self.health()[provider]
