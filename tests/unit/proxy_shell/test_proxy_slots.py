"""The slot's table and the restart delays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.slots import TABLE, Action, Event, ImpossibleEvent, State, crash_count, restart_delay, step


def test_every_state_but_gone_can_be_left() -> None:
    """No state is a trap, and `stop` is possible wherever a slot may be told to stop."""
    for state in set(State) - {State.GONE}:
        assert any(before is state and after is not state for (before, _), (after, _) in TABLE.items())
    for state in set(State) - {State.GONE, State.STOPPING}:
        assert (state, Event.STOP) in TABLE


def test_an_impossible_event_is_named() -> None:
    """An event that a state cannot take raises an error that names both."""
    with pytest.raises(ImpossibleEvent, match=r"'ready' is impossible in state 'backoff'"):
        step(State.BACKOFF, Event.READY)


def test_the_old_process_is_only_drained_once_the_new_one_serves() -> None:
    """Only `ready` promotes a replacement; its death leaves the old process serving."""
    promoting = [pair for pair, (_, action) in TABLE.items() if action is Action.PROMOTE]
    assert promoting == [(State.REPLACING, Event.READY)]
    assert step(State.REPLACING, Event.REPLACEMENT_DIED) == (State.SERVING, Action.GIVE_UP)


@given(st.lists(st.sampled_from(list(Event))))
def test_a_slot_that_is_not_stopped_always_has_a_process_or_a_start_ahead(events: list[Event]) -> None:
    """Whatever happens, processes and pending starts are counted right by state."""
    state, processes, pending = State.STARTING, 1, 0
    for event in events:
        if (state, event) not in TABLE:
            continue
        state, action = step(state, event)
        match action:
            case Action.SPAWN:
                processes, pending = processes + 1, 0
            case Action.SPAWN_REPLACEMENT:
                processes += 1
            case Action.PROMOTE | Action.ADOPT | Action.GIVE_UP:
                processes -= 1
            case Action.SCHEDULE:
                processes, pending = processes - 1, 1
        expected = {State.STARTING: (1, 0), State.SERVING: (1, 0), State.REPLACING: (2, 0), State.BACKOFF: (0, 1)}
        if state in expected:
            assert (processes, pending) == expected[state]


@pytest.mark.parametrize(
    ("consecutive", "served", "delay"),
    [
        (1, True, 0.0),
        (1, False, 0.25),
        (2, True, 0.25),
        (3, False, 0.5),
        (4, False, 1.0),
        (9, False, 30.0),
        (5000, False, 30.0),
    ],
)
def test_delays_double_from_the_second_crash(consecutive: int, served: bool, delay: float) -> None:
    """The first crash after service is answered at once, then 0.25 s doubles to 30 s."""
    assert restart_delay(consecutive, served=served, initial=0.25, maximum=30.0) == delay


@pytest.mark.parametrize(("served", "count"), [(None, 6), (59.0, 6), (60.0, 1)])
def test_the_crash_count_restarts_only_after_sustained_service(served: float | None, count: int) -> None:
    """A worker that served for the reset time starts anew; a shorter run counts on."""
    assert crash_count(5, served_seconds=served, reset_seconds=60.0) == count
