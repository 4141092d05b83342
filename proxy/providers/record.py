"""What all workers know of each provider: its circuit, its newest failure and its figures, in the shared store.

A request goes by what was read a moment before. Failures and what changes a circuit are written at once; figures are
gathered in this worker and folded into the shared ones by `flush`. When the store is busy this worker goes by what it
knows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

import orjson

from proxy.clock import Clock
from proxy.routing.breaker import Circuit, Claim, Event, Failed, Force, Policy, State, Success, apply, granted
from proxy.routing.outcome import Fault
from proxy.shared import Shared, StoreBrokenError, StoreBusyError

log = logging.getLogger(__name__)

BUCKET_SECONDS = 5
HEALTH_WINDOW_SECONDS = 60.0
_LATENCY_WEIGHT = 0.2
"""Of the newest observation in the moving average of latencies."""
_MESSAGE_LIMIT = 300

T = TypeVar("T")


@dataclass(slots=True)
class Figures:
    """Of one provider. `buckets` maps the number of a 5 s bucket (as text, JSON's keys) to requests and errors."""

    requests: int = 0
    errors: int = 0
    latency_ms: float | None = None
    rate_limit_remaining: int | None = None
    last_success_at: float | None = None
    last_error_at: float | None = None
    last_error: str | None = None
    buckets: dict[str, list[int]] = field(default_factory=dict)

    def count(self, now: float, *, error: bool) -> None:
        """Adds one request that ended at `now` (monotonic)."""
        self.requests += 1
        self.errors += error
        bucket = self.buckets.setdefault(str(int(now // BUCKET_SECONDS)), [0, 0])
        bucket[0] += 1
        bucket[1] += error

    def window(self, now: float, seconds: float) -> tuple[int, int]:
        """Requests and errors of the last `seconds`, to the whole bucket."""
        first = int((now - seconds) // BUCKET_SECONDS) + 1
        recent = [counts for number, counts in self.buckets.items() if int(number) >= first]
        return sum(counts[0] for counts in recent), sum(counts[1] for counts in recent)

    def observe_latency(self, milliseconds: float) -> None:
        """Moves the average."""
        known = self.latency_ms
        self.latency_ms = milliseconds if known is None else known + _LATENCY_WEIGHT * (milliseconds - known)

    def absorb(self, news: Figures, now: float) -> None:
        """Folds a worker's news in and forgets buckets that no window reaches."""
        self.requests += news.requests
        self.errors += news.errors
        if news.latency_ms is not None:
            self.observe_latency(news.latency_ms)
        if news.rate_limit_remaining is not None:
            self.rate_limit_remaining = news.rate_limit_remaining
        self.last_success_at = max(self.last_success_at or 0.0, news.last_success_at or 0.0) or None
        if news.last_error_at is not None:
            self.last_error_at, self.last_error = news.last_error_at, news.last_error
        for number, (requests, errors) in news.buckets.items():
            bucket = self.buckets.setdefault(number, [0, 0])
            bucket[0] += requests
            bucket[1] += errors
        oldest = int((now - 2 * HEALTH_WINDOW_SECONDS) // BUCKET_SECONDS)
        self.buckets = {number: counts for number, counts in self.buckets.items() if int(number) >= oldest}


@dataclass(slots=True)
class _Known:
    """What this worker knows of one provider: the circuit as read from `raw`, and news that are not yet shared."""

    circuit: Circuit = field(default_factory=Circuit)
    raw: bytes | None = None
    news: Figures = field(default_factory=Figures)
    unwritten: list[Event] = field(default_factory=list)


class ProviderRecord:
    """Never raises for the store's sake: a broken one is begun anew, a busy one is done without."""

    def __init__(self, shared: Shared, names: tuple[str, ...], policy: Policy, window: float, clock: Clock) -> None:
        self._shared = shared
        self._policy = policy
        self._window = window
        self._clock = clock
        self._known = {name: _Known() for name in names}
        self._read_at = -math.inf

    def refresh(self, *, older_than: float = 0.0) -> None:
        """Reads the circuits of all providers, unless that was done in the last `older_than` seconds."""
        now = self._clock.monotonic()
        if now - self._read_at < older_than:
            return
        self._read_at = now
        self._safely(self._read, None)

    def circuit(self, name: str) -> Circuit:
        """The circuit as of the last `refresh` or change. KeyError for an unknown name."""
        return self._known[name].circuit

    def succeeded(self, name: str, began: float, latency_seconds: float, *, remaining: int | None) -> None:
        """One completion went well; `began` is monotonic."""
        now, news = self._clock.monotonic(), self._known[name].news
        news.count(now, error=False)
        news.observe_latency(latency_seconds * 1000)
        news.last_success_at = self._clock.wall()
        if remaining is not None:
            news.rate_limit_remaining = remaining
        self.event(name, Success(began))

    def opened(self, name: str, began: float) -> None:
        """A stream's first content has come: enough to close an open circuit, too little to count as a success."""
        if self._known[name].circuit.state is not State.CLOSED:
            self.event(name, Success(began))

    def failed(self, name: str, began: float, fault: Fault, message: str, retry_after: float | None = None) -> None:
        """One completion failed through the provider's fault."""
        now, news = self._clock.monotonic(), self._known[name].news
        news.count(now, error=True)
        if fault is Fault.AUTH:
            message = message.partition(":")[0] + ": the provider refused the key"
        news.last_error_at, news.last_error = self._clock.wall(), message[:_MESSAGE_LIMIT]
        figures = self.figures(name)
        requests, errors = figures.window(now, self._window)
        self.event(name, Failed(began, fault, retry_after, requests, errors))

    def probed(self, name: str, began: float, fault: Fault | None, message: str) -> None:
        """A models listing, which is no caller's request, went well (`fault` None) or did not."""
        if fault is None:
            self.event(name, Success(began, proof=False))
            return
        news = self._known[name].news
        news.last_error_at, news.last_error = self._clock.wall(), message[:_MESSAGE_LIMIT]
        self.event(name, Failed(began, fault))

    def event(self, name: str, event: Event) -> None:
        """Applies an event to the shared circuit; a no-op is found without writing."""
        known, now = self._known[name], self._clock.monotonic()
        if apply(known.circuit, event, self._policy, now) is known.circuit:
            return
        if not self._safely(partial(self._write, name, [event]), False):
            known.circuit = apply(known.circuit, event, self._policy, now)
            known.unwritten.append(event)

    def claim(self, name: str, lease_seconds: float) -> bool:
        """Whether this worker may make the one trial of an open circuit; it is another's after the lease."""

        def claim() -> bool:
            with self._shared.write() as txn:
                before = _load_circuit(txn.get(_circuit_key(name), db=self._database()))
                after = apply(before, Claim(lease_seconds), self._policy, self._clock.monotonic())
                if not granted(before, after):
                    return False
                self._put_circuit(txn, name, after)
                return True

        return self._safely(claim, False)

    def lease(self, name: str, seconds: float) -> bool:
        """Whether this worker, alone of all, may look after a provider for so long."""

        def lease() -> bool:
            with self._shared.write() as txn:
                now = self._clock.monotonic()
                raw = txn.get(_lease_key(name), db=self._database())
                if raw is not None and float(raw) > now:
                    return False
                txn.put(_lease_key(name), repr(now + seconds).encode(), db=self._database())
                return True

        return self._safely(lease, False)

    def force(self, name: str, state: State, seconds: float, reason: str) -> Circuit:
        """An operator's will. KeyError for an unknown name."""
        known = self._known[name]
        known.news.last_error = f"forced {state}: {reason}"[:_MESSAGE_LIMIT] if state is State.OPEN else None
        known.news.last_error_at = self._clock.wall() if state is State.OPEN else None
        self.event(name, Force(state, seconds))
        self.flush()
        return known.circuit

    def figures(self, name: str) -> Figures:
        """The service's figures of one provider, with this worker's latest."""
        figures = self._safely(partial(self._load_figures, name), Figures())
        figures.absorb(self._known[name].news, self._clock.monotonic())
        return figures

    def flush(self) -> None:
        """Shares this worker's news; costs nothing without any."""
        for name, known in self._known.items():
            if bool(known.unwritten) and self._safely(partial(self._write, name, known.unwritten), False):
                known.unwritten = []
            if known.news != Figures() and self._safely(partial(self._share, name), False):
                known.news = Figures()

    def _database(self) -> Any:
        return self._shared.database("providers")

    def _read(self) -> None:
        with self._shared.read() as txn:
            for name, known in self._known.items():
                raw = txn.get(_circuit_key(name), db=self._database())
                if raw != known.raw:
                    known.circuit, known.raw = _load_circuit(raw), raw

    def _write(self, name: str, events: list[Event]) -> bool:
        with self._shared.write() as txn:
            circuit = before = _load_circuit(txn.get(_circuit_key(name), db=self._database()))
            for event in events:
                circuit = apply(circuit, event, self._policy, self._clock.monotonic())
            if circuit is not before:
                self._put_circuit(txn, name, circuit)
        if circuit.state is not before.state:
            # A trial that failed again is no news; that traffic has moved, or is back, is.
            failed_again = before.state is State.HALF_OPEN and circuit.state is State.OPEN
            log.log(
                logging.INFO if failed_again else logging.WARNING,
                "provider %s: circuit %s, was %s (%s)",
                name,
                circuit.state,
                before.state,
                circuit.fault or "well",
            )
        return True

    def _put_circuit(self, txn: Any, name: str, circuit: Circuit) -> None:
        raw = orjson.dumps(asdict(circuit))
        txn.put(_circuit_key(name), raw, db=self._database())
        self._known[name].circuit, self._known[name].raw = circuit, raw

    def _share(self, name: str) -> bool:
        with self._shared.write() as txn:
            raw = txn.get(_figures_key(name), db=self._database())
            figures = Figures() if raw is None else Figures(**orjson.loads(raw))
            figures.absorb(self._known[name].news, self._clock.monotonic())
            txn.put(_figures_key(name), orjson.dumps(asdict(figures)), db=self._database())
        return True

    def _load_figures(self, name: str) -> Figures:
        with self._shared.read() as txn:
            raw = txn.get(_figures_key(name), db=self._database())
        return Figures() if raw is None else Figures(**orjson.loads(raw))

    def _safely(self, do: Callable[[], T], otherwise: T, /) -> T:
        try:
            return do()
        except StoreBrokenError:
            self._shared.recover()
        except StoreBusyError:
            pass
        return otherwise


def _circuit_key(name: str) -> bytes:
    return b"circuit " + name.encode()


def _figures_key(name: str) -> bytes:
    return b"figures " + name.encode()


def _lease_key(name: str) -> bytes:
    return b"lease " + name.encode()


def _load_circuit(raw: bytes | None) -> Circuit:
    if raw is None:
        return Circuit()
    fields: dict[str, Any] = orjson.loads(raw)
    fault = fields["fault"]
    return Circuit(**fields | {"state": State(fields["state"]), "fault": None if fault is None else Fault(fault)})
