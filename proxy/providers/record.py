"""What all workers know of providers and their models: circuits, newest failures, figures, in the shared store.

Each provider has a circuit of its own, which opens on faults that concern all of its models (its name, the network,
TLS, its keys), and one for each model's label, which opens on the rest. A request goes by what was read a moment
before. Failures and what changes a circuit are written at once; figures are gathered in this worker and folded into the
shared ones by `flush`. When the store is busy this worker goes by what it knows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from proxy.clock import Clock
from proxy.providers.board import Board
from proxy.providers.figures import Figures, together
from proxy.routing.breaker import Circuit, Claim, Event, Failed, Force, Policy, State, Success, apply, due, granted
from proxy.routing.order import Standing, standing
from proxy.routing.outcome import PROVIDER_WIDE, Failure, Fault

log = logging.getLogger(__name__)

WHOLE = ""
"""In place of a model's label: the provider itself."""
_MESSAGE_LIMIT = 300
_LABEL_BYTES = 400


@dataclass(slots=True)
class _Lane:
    """What this worker knows of one model at one provider: the circuit as read from `raw`, news not yet shared."""

    provider: str
    label: str
    name: bytes
    circuit: Circuit = field(default_factory=Circuit)
    raw: bytes | None = None
    news: Figures = field(default_factory=Figures)
    unwritten: list[Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ProviderView:
    """A provider as `GET /health/providers` needs it."""

    whole: Circuit
    circuits: dict[str, Circuit]
    """By label."""
    figures: dict[str, Figures]
    """By label, and the provider's own notes under `WHOLE`."""


class ProviderRecord:
    """`labels` has each provider's name and the labels that its models may bear."""

    def __init__(
        self, board: Board, labels: Mapping[str, Sequence[str]], policy: Policy, window: float, clock: Clock
    ) -> None:
        self._board = board
        self._policy = policy
        self._window = window
        self._clock = clock
        self._lanes = {
            provider: {label: _Lane(provider, label, _name(provider, label)) for label in (WHOLE, *names)}
            for provider, names in labels.items()
        }
        board.on_news(self._read)

    def circuit(self, provider: str, label: str = WHOLE) -> Circuit:
        """The circuit as of the last refresh of the board, or change. KeyError for an unknown name."""
        return self._lanes[provider][label].circuit

    def standing(self, provider: str, label: str) -> Standing:
        """What the two circuits on a route allow now."""
        lanes = self._lanes[provider]
        whole, lane = lanes[WHOLE].circuit, lanes[label].circuit
        if whole.state is State.CLOSED and lane.state is State.CLOSED:
            return Standing.CLOSED
        now = self._clock.monotonic()
        return max(standing(whole, now), standing(lane, now))

    def succeeded(
        self, provider: str, label: str, began: float, latency_seconds: float, *, remaining: int | None
    ) -> None:
        """One completion went well; `began` is monotonic."""
        lanes = self._lanes[provider]
        lane = lanes[label]
        news = lane.news
        news.count(self._clock.monotonic(), error=False)
        news.observe_latency(latency_seconds * 1000)
        news.last_success_at = self._clock.wall()
        if remaining is not None:
            news.rate_limit_remaining = remaining
        whole = lanes[WHOLE]
        if not (lane.circuit.calm and whole.circuit.calm):
            self._event(lane, Success(began))
            self._event(whole, Success(began))

    def opened(self, provider: str, label: str, began: float) -> None:
        """A stream's first content has come: enough to close an open circuit, too little to count as a success."""
        for lane in (self._lanes[provider][label], self._lanes[provider][WHOLE]):
            if lane.circuit.state is not State.CLOSED:
                self._event(lane, Success(began))

    def noted(self, provider: str, label: str, failure: Failure) -> None:
        """One attempt failed in a way that another key may mend: it is counted, and no circuit minds."""
        now, news = self._clock.monotonic(), self._lanes[provider][label].news
        news.count(now, error=True)
        news.last_error_at, news.last_error = self._clock.wall(), public_message(failure)

    def failed(self, provider: str, label: str, began: float, failure: Failure) -> None:
        """One attempt failed through the provider's fault, and no other key of it can mend that."""
        self.noted(provider, label, failure)
        lanes, now = self._lanes[provider], self._clock.monotonic()
        lane, whole = lanes[label], lanes[WHOLE]
        if failure.fault in PROVIDER_WIDE:
            self._event(whole, self._failed(whole, began, failure, self._window_of(provider, None, now)))
            if lane.circuit.state is State.HALF_OPEN:
                self._event(lane, self._failed(lane, began, failure, (0, 0)))
            return
        self._event(lane, self._failed(lane, began, failure, self._window_of(provider, label, now)))
        if failure.fault is not Fault.TIMEOUT:
            self._event(whole, Success(began))
        elif whole.circuit.state is State.HALF_OPEN:
            self._event(whole, self._failed(whole, began, failure, (0, 0)))

    def suspects(self, provider: str) -> list[str]:
        """Labels, `WHOLE` among them, whose newest failure no success has followed."""
        return [
            label
            for label, lane in self._lanes[provider].items()
            if lane.circuit.state is not State.CLOSED or lane.circuit.fault is not None
        ]

    def probed(self, provider: str, labels: Sequence[str], began: float, failure: Failure | None) -> None:
        """A models listing, which is no caller's request, went well (None) or did not."""
        if failure is not None:
            news = self._lanes[provider][WHOLE].news
            news.last_error_at, news.last_error = self._clock.wall(), public_message(failure)
        for label in labels:
            lane = self._lanes[provider][label]
            if failure is None:
                self._event(lane, Success(began, proof=False))
            else:
                self._event(lane, Failed(began, failure.fault, failure.retry_after))

    def claim(self, provider: str, label: str, lease_seconds: float) -> bool:
        """Whether this worker may make the one trial on a route, whose open circuits are claimed together; it is
        another's after the lease."""
        lanes = self._lanes[provider]
        return all(
            self._claim(lane, lease_seconds)
            for lane in (lanes[WHOLE], lanes[label])
            if lane.circuit.state is not State.CLOSED
        )

    def claim_one(self, provider: str, label: str, lease_seconds: float) -> bool:
        """Likewise for one circuit alone."""
        return self._claim(self._lanes[provider][label], lease_seconds)

    def force(self, provider: str, label: str | None, state: State, seconds: float, reason: str) -> None:
        """An operator's will, for one model or (None) for all of a provider. KeyError for an unknown name."""
        lanes = self._lanes[provider]
        news = lanes[WHOLE].news
        if state is State.OPEN:
            news.last_error, news.last_error_at = f"forced {state}: {reason}"[:_MESSAGE_LIMIT], self._clock.wall()
        if label is not None:
            self._event(lanes[label], Force(state, seconds))
        elif state is State.OPEN:
            self._event(lanes[WHOLE], Force(state, seconds))
        else:
            for lane in lanes.values():
                self._event(lane, Force(state, seconds))
        self.flush()

    def view(self, provider: str) -> ProviderView:
        """What the whole service knows, with this worker's latest."""
        lanes = list(self._lanes[provider].values())
        rows = self._board.read([_figures_row(lane) for lane in lanes])
        figures = {lane.label: self._with_news(lane, raw) for lane, raw in zip(lanes, rows, strict=True)}
        circuits = {lane.label: lane.circuit for lane in lanes}
        return ProviderView(circuits.pop(WHOLE), circuits, figures)

    def figures(self, provider: str, label: str | None = None) -> Figures:
        """The service's figures of one model or (None) of a provider, with this worker's latest."""
        if label is None:
            return together(self.view(provider).figures.values())
        lane = self._lanes[provider][label]
        return self._with_news(lane, self._board.read([_figures_row(lane)])[0])

    def flush(self) -> None:
        """Shares this worker's news; costs nothing without any."""
        for lane in self._all():
            if lane.unwritten and self._write(lane, lane.unwritten):
                lane.unwritten = []
            if lane.news != Figures() and self._share(lane):
                lane.news = Figures()

    def _all(self) -> Iterator[_Lane]:
        return (lane for lanes in self._lanes.values() for lane in lanes.values())

    def _failed(self, lane: _Lane, began: float, failure: Failure, window: tuple[int, int]) -> Failed:
        return Failed(began, failure.fault, failure.retry_after, *window)

    def _window_of(self, provider: str, label: str | None, now: float) -> tuple[int, int]:
        return self.figures(provider, label).window(now, self._window)

    def _with_news(self, lane: _Lane, raw: bytes | None) -> Figures:
        figures = Figures() if raw is None else Figures(**orjson.loads(raw))
        figures.absorb(lane.news, self._clock.monotonic())
        return figures

    def _read(self) -> None:
        for lane in self._all():
            raw = self._board.get(lane.name)
            if raw != lane.raw:
                lane.circuit, lane.raw = _load_circuit(raw), raw

    def _event(self, lane: _Lane, event: Event) -> None:
        """Applies an event to the shared circuit; a no-op is found without writing."""
        now = self._clock.monotonic()
        if apply(lane.circuit, event, self._policy, now) is lane.circuit:
            return
        if not self._write(lane, [event]):
            lane.circuit = apply(lane.circuit, event, self._policy, now)
            lane.unwritten.append(event)

    def _claim(self, lane: _Lane, lease_seconds: float) -> bool:
        got = False

        def claim(raw: bytes | None) -> bytes | None:
            nonlocal got
            before = _load_circuit(raw)
            after = apply(before, Claim(lease_seconds), self._policy, self._clock.monotonic())
            got = granted(before, after)
            return self._known(lane, after) if got else None

        return due(lane.circuit, self._clock.monotonic()) and self._board.change(lane.name, claim) and got

    def _write(self, lane: _Lane, events: Sequence[Event]) -> bool:
        before = after = lane.circuit

        def write(raw: bytes | None) -> bytes | None:
            nonlocal before, after
            before = after = _load_circuit(raw)
            for event in events:
                after = apply(after, event, self._policy, self._clock.monotonic())
            return None if after is before else self._known(lane, after)

        if not self._board.change(lane.name, write):
            return False
        if after.state is not before.state:
            # A trial that failed again is no news; that traffic has moved, or is back, is.
            failed_again = before.state is State.HALF_OPEN and after.state is State.OPEN
            log.log(
                logging.INFO if failed_again else logging.WARNING,
                "provider %s%s: circuit %s, was %s (%s)",
                lane.provider,
                f", model {lane.label}" if lane.label else "",
                after.state,
                before.state,
                after.fault or "well",
            )
        return True

    def _known(self, lane: _Lane, circuit: Circuit) -> bytes:
        lane.circuit, lane.raw = circuit, orjson.dumps(asdict(circuit))
        return lane.raw

    def _share(self, lane: _Lane) -> bool:
        return self._board.fold(_figures_row(lane), lambda raw: orjson.dumps(asdict(self._with_news(lane, raw))))


def public_message(failure: Failure) -> str:
    """The failure for people. A provider's words about our key may have the key in them."""
    message = failure.message
    if failure.fault is Fault.AUTH and failure.asked:
        message = message.partition(":")[0] + ": the provider refused the key"
    return message[:_MESSAGE_LIMIT]


def _name(provider: str, label: str) -> bytes:
    return b"circuit " + provider.encode() + b" " + label.encode()[:_LABEL_BYTES]


def _figures_row(lane: _Lane) -> bytes:
    return lane.name.replace(b"circuit ", b"figures ", 1)


def _load_circuit(raw: bytes | None) -> Circuit:
    if raw is None:
        return Circuit()
    fields: dict[str, Any] = orjson.loads(raw)
    fault = fields["fault"]
    return Circuit(**fields | {"state": State(fields["state"]), "fault": None if fault is None else Fault(fault)})
