"""One circuit: one (state, event) table of pure functions. All times are monotonic seconds.

States and names follow Nygard's circuit breaker. What is added: a cooldown that doubles on each re-failure and is
forgotten only after sustained success, a trial that expires, and a state forced from outside, which always ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from proxy.routing.outcome import RETRY_AFTER_LIMIT_SECONDS, Fault

SUSTAINED_SECONDS = 60.0
"""A circuit closed this long without a failure starts again with the shortest cooldown."""
FORCED_LIMIT_SECONDS = 86_400.0


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's limits; see `settings.Breaker`."""

    consecutive_failures: int
    error_ratio: float
    min_requests: int
    cooldown: float
    cooldown_max: float


@dataclass(frozen=True, slots=True)
class Circuit:
    """What all workers know of a provider as a whole, or of one model there."""

    state: State = State.CLOSED
    since: float = 0.0
    """When this state began."""
    until: float = 0.0
    """OPEN: end of the cooldown. HALF_OPEN: end of the trial's lease. CLOSED: 0."""
    failures: int = 0
    """Consecutive ones while closed."""
    failed_at: float = 0.0
    cooldown: float = 0.0
    """The latest cooldown, 0 when none is remembered."""
    forced: bool = False
    fault: Fault | None = None
    """Class of the newest failure that no success has followed."""

    @property
    def probation(self) -> bool:
        """Whether it is closed, but has not yet shown that it is well: the next attempt deserves less patience."""
        return self.state is State.CLOSED and self.failures > 0 and self.cooldown > 0

    @property
    def calm(self) -> bool:
        """Whether it is closed and remembers nothing, so that a success changes nothing."""
        return self.state is State.CLOSED and self.fault is None and not (self.failures or self.cooldown)


@dataclass(frozen=True, slots=True)
class Success:
    """An attempt that began at `began` went well. `proof` False: a models listing, which proves less."""

    began: float
    proof: bool = True


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that began at `began` failed; `requests` and `errors` are the window's, this one among them."""

    began: float
    fault: Fault
    retry_after: float | None = None
    requests: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody wants to make the trial, and will need at most `lease` seconds."""

    lease: float


@dataclass(frozen=True, slots=True)
class Force:
    """An operator's will; `seconds` is for how long an open one lasts."""

    state: State
    seconds: float


Event = Success | Failed | Claim | Force


def apply(circuit: Circuit, event: Event, policy: Policy, now: float) -> Circuit:
    """The circuit after `event`; the very same object if nothing changes, so that nothing need be written.

    What an attempt brings back that began before the present state did is ignored: it tells of the past.
    """
    if isinstance(event, Success | Failed) and event.began < circuit.since:
        return circuit
    return _TABLE[circuit.state, type(event)](circuit, event, policy, now)


def due(circuit: Circuit, now: float) -> bool:
    """Whether a trial may be claimed: the cooldown, or the lease of an earlier trial, has ended."""
    return circuit.state is not State.CLOSED and now >= circuit.until


def granted(before: Circuit, after: Circuit) -> bool:
    """Whether a claim that led from `before` to `after` got the trial."""
    return after is not before and after.state is State.HALF_OPEN


def _unchanged(circuit: Circuit, _event: Event, _policy: Policy, _now: float) -> Circuit:
    return circuit


def _close(circuit: Circuit, event: Success, policy: Policy, now: float) -> Circuit:
    """A listing closes on probation: the next single failure opens again."""
    failures = 0 if event.proof else policy.consecutive_failures - 1
    return replace(circuit, state=State.CLOSED, since=now, until=0.0, failures=failures, forced=False, fault=None)


def _closed_success(circuit: Circuit, event: Success, _policy: Policy, now: float) -> Circuit:
    forget = circuit.cooldown > 0 and _sustained(circuit, now)
    settle = event.proof and circuit.failures > 0
    if not (forget or settle or circuit.fault):
        return circuit
    cooldown = 0.0 if forget else circuit.cooldown
    return replace(circuit, failures=0 if settle else circuit.failures, fault=None, cooldown=cooldown)


def _closed_failure(circuit: Circuit, event: Failed, policy: Policy, now: float) -> Circuit:
    if _sustained(circuit, now):
        circuit = replace(circuit, cooldown=0.0)
    circuit = replace(circuit, failures=circuit.failures + 1, failed_at=now, fault=event.fault)
    ratio_reached = event.requests >= policy.min_requests and event.errors >= policy.error_ratio * event.requests
    if (
        event.fault is Fault.AUTH
        or event.retry_after
        or ratio_reached
        or circuit.failures >= policy.consecutive_failures
    ):
        return _open(circuit, event, policy, now)
    return circuit


def _open(circuit: Circuit, event: Failed, policy: Policy, now: float) -> Circuit:
    cooldown = min(max(policy.cooldown, 2 * circuit.cooldown), max(policy.cooldown, policy.cooldown_max))
    wait = event.retry_after or cooldown
    if circuit.state is State.HALF_OPEN:
        wait = max(wait, cooldown)
    return Circuit(State.OPEN, now, now + wait, 0, now, cooldown, fault=event.fault)


def _open_success(circuit: Circuit, event: Success, policy: Policy, now: float) -> Circuit:
    return circuit if circuit.forced else _close(circuit, event, policy, now)


def _open_failure(circuit: Circuit, event: Failed, _policy: Policy, now: float) -> Circuit:
    """Attempts made although the circuit is open lengthen nothing, but for a wait that the provider itself names."""
    until = max(circuit.until, now + (event.retry_after or 0.0))
    if until == circuit.until and event.fault is circuit.fault:
        return circuit
    return replace(circuit, until=until, failed_at=now, fault=event.fault)


def _claim(circuit: Circuit, event: Claim, _policy: Policy, now: float) -> Circuit:
    if not due(circuit, now):
        return circuit
    return replace(circuit, state=State.HALF_OPEN, since=now, until=now + event.lease, forced=False)


def _force(circuit: Circuit, event: Force, _policy: Policy, now: float) -> Circuit:
    if event.state is State.OPEN:
        until = now + min(max(event.seconds, 0.0), FORCED_LIMIT_SECONDS)
        return replace(circuit, state=State.OPEN, since=now, until=until, forced=True)
    return Circuit(State.CLOSED, now, fault=circuit.fault)


def _sustained(circuit: Circuit, now: float) -> bool:
    return now - max(circuit.since, circuit.failed_at) >= SUSTAINED_SECONDS


_TABLE: dict[tuple[State, type[Event]], Callable[..., Circuit]] = {
    (State.CLOSED, Success): _closed_success,
    (State.CLOSED, Failed): _closed_failure,
    (State.CLOSED, Claim): _unchanged,
    (State.CLOSED, Force): _force,
    (State.OPEN, Success): _open_success,
    (State.OPEN, Failed): _open_failure,
    (State.OPEN, Claim): _claim,
    (State.OPEN, Force): _force,
    (State.HALF_OPEN, Success): _close,
    (State.HALF_OPEN, Failed): _open,
    (State.HALF_OPEN, Claim): _claim,
    (State.HALF_OPEN, Force): _force,
}

LONGEST_OPEN_SECONDS = max(RETRY_AFTER_LIMIT_SECONDS, FORCED_LIMIT_SECONDS)
