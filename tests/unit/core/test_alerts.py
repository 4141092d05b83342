"""The states of alerts: a table of short histories, and laws over all histories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.core.alerts import advance, deadline
from watchdog.core.model import Alert, AlertChange, AlertState, labels_of

P, F, R, X = AlertChange.PENDING, AlertChange.FIRING, AlertChange.RESOLVED, AlertChange.FORGOTTEN
LABELS = labels_of(alertname="A", host="h")


def run(history: str, hold: float, keep: float) -> list[tuple[float, AlertChange]]:
    """What happens in a history of one evaluation a second: `1` where the expression holds."""
    active: dict[str, Alert] = {}
    events = []
    for now, holds in enumerate(history):
        vector = [(LABELS, (), float(now))] if holds == "1" else []
        active, changed = advance("A", hold, keep, active, vector, float(now))
        events += [(event.at, event.change) for event in changed]
    return events


@pytest.mark.parametrize(
    ("history", "hold", "keep", "expected"),
    [
        ("000", 0, 0, []),
        ("011", 0, 0, [(1, F)]),
        ("0110", 0, 0, [(1, F), (3, R)]),
        ("1010", 0, 0, [(0, F), (1, R), (2, F), (3, R)]),
        ("110", 2, 0, [(0, P), (2, X)]),
        ("111", 2, 0, [(0, P), (2, F)]),
        ("1101110", 2, 0, [(0, P), (2, X), (3, P), (5, F), (6, R)]),
        ("1000", 0, 2, [(0, F), (3, R)]),
        ("10", 0, 2, [(0, F)]),
        ("100100000", 0, 3, [(0, F), (7, R)]),
        ("11000", 1, 2, [(0, P), (1, F), (4, R)]),
        ("100", 1, 5, [(0, P), (1, X)]),
    ],
)
def test_a_history_gives_these_changes(history: str, hold: float, keep: float, expected: list[object]) -> None:
    """`for` delays firing, an interruption starts it anew, `keep_firing_for` delays resolution."""
    assert run(history, hold, keep) == expected


def test_an_alert_carries_its_latest_value_and_annotations() -> None:
    """While it is active, value and annotations follow the expression and the start stays."""
    active, _ = advance("A", 10, 0, {}, [(LABELS, (("s", "old"),), 1.0)], 5.0)
    active, events = advance("A", 10, 0, active, [(LABELS, (("s", "new"),), 2.0)], 6.0)
    (alert,) = active.values()
    assert (alert.value, alert.annotation, alert.active_at, alert.last_true_at) == (2.0, {"s": "new"}, 5.0, 6.0)
    assert alert.label == {"alertname": "A", "host": "h"}
    assert events == []


def test_alerts_of_one_rule_are_independent() -> None:
    """One label set may resolve while another begins."""
    other = labels_of(alertname="A", host="other")
    active, _ = advance("A", 0, 0, {}, [(LABELS, (), 1.0)], 0.0)
    active, events = advance("A", 0, 0, active, [(other, (), 1.0)], 1.0)
    assert [(event.change, event.alert.labels) for event in events] == [(F, other), (R, LABELS)]
    assert events[1].alert.state is AlertState.RESOLVED
    assert events[1].alert.resolved_at == 1.0
    assert [alert.labels for alert in active.values()] == [other]


@pytest.mark.parametrize(("history", "expected"), [("1", 2.0), ("111", None), ("1110", 6.0)])
def test_the_deadline_is_the_end_of_for_or_of_keep_firing_for(history: str, expected: float | None) -> None:
    """A pending alert is due when `for` ends, one that is kept when `keep_firing_for` ends, others never."""
    active: dict[str, Alert] = {}
    for now, holds in enumerate(history):
        active, _ = advance("A", 2, 3, active, [(LABELS, (), 1.0)] if holds == "1" else [], float(now))
    (alert,) = active.values()
    assert deadline(alert, 2, 3) == expected


histories = st.lists(st.tuples(st.floats(0.01, 30), st.booleans()), max_size=40)
seconds = st.sampled_from([0.0, 0.5, 1.0, 7.0, 30.0])


@given(histories, seconds, seconds)
def test_an_alert_fires_only_after_for_and_ends_once(
    history: list[tuple[float, bool]], hold: float, keep: float
) -> None:
    """Whatever the history: firing means true for at least `for` without a break; firing and resolved alternate."""
    active: dict[str, Alert] = {}
    now, true_since, false_since = 0.0, None, None
    changes = []
    for step, holds in history:
        now += step
        true_since = (now if true_since is None else true_since) if holds else None
        false_since = None if holds else (now if false_since is None else false_since)
        active, events = advance("A", hold, keep, active, [(LABELS, (), 1.0)] if holds else [], now)
        for event in events:
            changes.append(event.change)
            if event.change is F:
                assert true_since is not None
                assert now >= true_since + hold
            if event.change is R:
                assert false_since is not None
                assert now >= false_since + keep
        for alert in active.values():
            assert alert.state is not AlertState.RESOLVED
            assert (alert.fired_at is not None) == (alert.state is AlertState.FIRING)
    ends = [change for change in changes if change in {F, R}]
    assert ends == [F, R] * (len(ends) // 2) + [F] * (len(ends) % 2)
    firing = any(alert.state is AlertState.FIRING for alert in active.values())
    assert firing == (len(ends) % 2 == 1)


@given(histories, seconds, seconds)
def test_a_deadline_is_never_missed(history: list[tuple[float, bool]], hold: float, keep: float) -> None:
    """An evaluation at the deadline, with the expression as it was, changes the alert."""
    active: dict[str, Alert] = {}
    now = 0.0
    for step, holds in history:
        now += step
        vector = [(LABELS, (), 1.0)] if holds else []
        active, _ = advance("A", hold, keep, active, vector, now)
        for alert in active.values():
            end = deadline(alert, hold, keep)
            if end is not None:
                assert end > now
                assert advance("A", hold, keep, active, vector, end)[1]
