"""The circuit's table and its laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.breaker import (
    LONGEST_OPEN_SECONDS,
    Circuit,
    Claim,
    Event,
    Failed,
    Force,
    Policy,
    State,
    Success,
    apply,
    due,
    granted,
)
from proxy.routing.outcome import Fault

POLICY = Policy(consecutive_failures=3, error_ratio=0.5, min_requests=5, cooldown=5.0, cooldown_max=20.0)


def fail(circuit: Circuit, now: float, fault: Fault = Fault.OUTAGE, retry_after: float | None = None) -> Circuit:
    return apply(circuit, Failed(now, fault, retry_after), POLICY, now)


def opened(now: float = 100.0) -> Circuit:
    return fail(Circuit(), now, Fault.AUTH)


def trial(circuit: Circuit, now: float) -> Circuit:
    after = apply(circuit, Claim(3.0), POLICY, now)
    assert granted(circuit, after)
    return after


def test_breaker_opens_at_the_third_consecutive_failure() -> None:
    """Three failures in a row open the circuit for the shortest cooldown, two do not."""
    circuit = fail(fail(Circuit(), 100.0), 101.0)
    assert circuit.state is State.CLOSED
    circuit = fail(circuit, 102.0)
    assert (circuit.state, circuit.until, circuit.fault) == (State.OPEN, 107.0, Fault.OUTAGE)


def test_breaker_success_between_failures_starts_the_count_anew() -> None:
    """A success between failures resets the count and clears the fault."""
    circuit = fail(fail(Circuit(), 100.0), 101.0)
    circuit = apply(circuit, Success(101.5), POLICY, 102.0)
    assert (circuit.failures, circuit.fault) == (0, None)
    assert fail(circuit, 103.0).state is State.CLOSED


@pytest.mark.parametrize(("requests", "errors", "state"), [(4, 4, "closed"), (5, 2, "closed"), (5, 3, "open")])
def test_breaker_opens_on_the_error_ratio(requests: int, errors: int, state: str) -> None:
    """Half of at least five requests failing opens the circuit although none failed in a row."""
    event = Failed(100.0, Fault.OUTAGE, None, requests, errors)
    assert apply(Circuit(), event, POLICY, 100.0).state == state


def test_breaker_opens_at_once_on_a_refused_key() -> None:
    """One refused key opens the circuit: no further request can go better."""
    assert opened().state is State.OPEN


def test_breaker_waits_as_long_as_the_provider_asks() -> None:
    """A Retry-After opens the circuit at once and is its cooldown, and a later shorter one does not shorten it."""
    circuit = fail(Circuit(), 100.0, Fault.QUOTA, 40.0)
    assert (circuit.state, circuit.until) == (State.OPEN, 140.0)
    assert fail(circuit, 101.0, Fault.QUOTA, 2.0).until == 140.0
    assert fail(circuit, 101.0, Fault.QUOTA, 60.0).until == 161.0


def test_breaker_doubles_the_cooldown_on_each_failed_trial_up_to_its_limit() -> None:
    """Failed trials wait 5, 10, 20 and again 20 seconds."""
    circuit, waits = opened(), []
    for _ in range(4):
        waits.append(circuit.until - circuit.since)
        circuit = fail(trial(circuit, circuit.until), circuit.until + 1)
    assert waits == [5.0, 10.0, 20.0, 20.0]


def test_breaker_forgets_a_long_cooldown_only_after_sustained_success() -> None:
    """A relapse within a minute of closing waits longer than the first time; after a quiet minute it does not."""
    circuit = apply(trial(opened(100.0), 105.0), Success(105.0), POLICY, 106.0)
    assert circuit.state is State.CLOSED
    relapse = fail(circuit, 150.0, Fault.AUTH)
    assert relapse.until - relapse.since == 10.0
    later = fail(circuit, 166.0, Fault.AUTH)
    assert later.until - later.since == 5.0
    assert apply(circuit, Success(166.0), POLICY, 166.0).cooldown == 0.0


def test_breaker_closed_by_a_listing_is_on_probation() -> None:
    """After a mere models listing closed the circuit a single failure opens it, a completion ends the probation."""
    circuit = apply(trial(opened(100.0), 105.0), Success(105.0, proof=False), POLICY, 106.0)
    assert (circuit.state, circuit.fault) == (State.CLOSED, None)
    assert fail(circuit, 107.0).state is State.OPEN
    assert fail(apply(circuit, Success(107.0), POLICY, 107.0), 108.0).state is State.CLOSED


def test_breaker_ignores_what_began_before_the_present_state() -> None:
    """A late success does not close, and a late failure does not open, a circuit that has changed since."""
    circuit = opened(100.0)
    assert apply(circuit, Success(99.0), POLICY, 101.0) is circuit
    closed = apply(trial(circuit, 105.0), Success(105.0), POLICY, 106.0)
    assert apply(closed, Failed(99.0, Fault.AUTH), POLICY, 107.0) is closed


def test_breaker_success_of_a_healthy_provider_changes_nothing() -> None:
    """The ordinary success returns the same object, so that the hot path writes nothing."""
    circuit = Circuit()
    assert apply(circuit, Success(1000.0), POLICY, 1000.0) is circuit


def test_breaker_forced_open_holds_and_ends() -> None:
    """A forced-open circuit ignores successes, and a trial may be made when its time is over."""
    circuit = apply(Circuit(), Force(State.OPEN, 30.0), POLICY, 100.0)
    assert apply(circuit, Success(101.0), POLICY, 101.0) is circuit
    assert not due(circuit, 129.0)
    assert apply(trial(circuit, 130.0), Success(130.0), POLICY, 131.0).state is State.CLOSED


def test_breaker_forced_closed_takes_traffic_at_once() -> None:
    """A forced-closed circuit forgets its cooldown and keeps its fault until a success."""
    circuit = apply(opened(100.0), Force(State.CLOSED, 0.0), POLICY, 101.0)
    assert (circuit.state, circuit.cooldown, circuit.forced, circuit.fault) == (State.CLOSED, 0.0, False, Fault.AUTH)


def test_breaker_lease_of_a_trial_expires() -> None:
    """A trial whose maker died is given to the next one that asks after the lease."""
    circuit = trial(opened(100.0), 105.0)
    assert not granted(circuit, apply(circuit, Claim(3.0), POLICY, 107.9))
    assert granted(circuit, apply(circuit, Claim(3.0), POLICY, 108.0))


_EVENTS = st.one_of(
    st.builds(Success, began=st.just(0.0), proof=st.booleans()),
    st.builds(
        Failed,
        began=st.just(0.0),
        fault=st.sampled_from(Fault),
        retry_after=st.none() | st.floats(0, 3600),
        requests=st.integers(0, 10),
        errors=st.integers(0, 10),
    ),
    st.builds(Claim, lease=st.floats(0.1, 10)),
    st.builds(Force, state=st.sampled_from([State.OPEN, State.CLOSED]), seconds=st.floats(0, 1e6)),
)
_HISTORIES = st.lists(st.tuples(st.floats(0, 40), st.floats(0, 10), _EVENTS), max_size=60)


def dated(event: Event, began: float) -> Event:
    return replace(event, began=began) if isinstance(event, Success | Failed) else event


@given(_HISTORIES)
def test_breaker_laws_hold_in_every_history(history: list[tuple[float, float, Event]]) -> None:
    """At most one trial is out at a time, no failure shortens a cooldown, and each open circuit ends."""
    circuit, now, trial_until = Circuit(), 1000.0, 0.0
    for passed, age, event in history:
        now += passed
        before = circuit
        circuit = apply(before, dated(event, now - age), POLICY, now)
        if isinstance(event, Claim) and granted(before, circuit):
            assert now >= trial_until
            trial_until = circuit.until
        elif circuit.state is not State.HALF_OPEN:
            trial_until = 0.0
        if isinstance(event, Failed) and before.state is State.OPEN:
            assert circuit.until >= before.until
        if circuit.state is State.OPEN:
            assert circuit.until <= now + LONGEST_OPEN_SECONDS
            assert due(circuit, circuit.until)
