"""The engine: when rules are evaluated, what events do, what survives a restart and a reload."""

from __future__ import annotations

import pytest

from watchdog.core.model import AlertChange, AlertEvent, AlertState, Sample, labels_of
from watchdog.errors import QueryError
from watchdog.metrics.engine import RESTORE_GRACE_SECONDS, RuleEngine
from watchdog.metrics.rules import RuleGroup, parse_rules
from watchdog.metrics.series import SeriesStore

T0 = 1_700_000_000.0


def groups(*rules: str, interval: str = "15s", limit: int = 0, name: str = "g") -> tuple[RuleGroup, ...]:
    body = "".join("  - {" + rule + "}\n" for rule in rules)
    return parse_rules(
        f"groups:\n- name: {name}\n  interval: {interval}\n  limit: {limit}\n  rules:\n{body}", "rules.yaml"
    )


def told(events: list[AlertEvent]) -> list[tuple[str, AlertChange]]:
    return [(event.alert.rule, event.change) for event in events]


def put(store: SeriesStore, name: str, value: float, at: float, **labels: str) -> set[str]:
    return store.ingest([Sample(name, value, labels_of(labels))], at)


def test_a_group_is_evaluated_on_its_interval() -> None:
    """First at once, then every interval; a late call does not make up for missed ones."""
    engine = RuleEngine(groups("alert: A, expr: x == 0", interval="10s"), SeriesStore())
    assert engine.next_due(T0) == T0
    seen = []
    for at in (0, 5, 10, 19, 20, 47, 50, 57):
        engine.evaluate_due(T0 + at)
        seen.append(engine.rules()[0].last_at)
    assert [at - T0 for at in seen if at is not None] == [0, 0, 10, 10, 20, 47, 47, 57]
    assert engine.next_due(T0 + 57) == T0 + 67


def test_without_rules_nothing_is_ever_due() -> None:
    """No groups: infinity."""
    assert RuleEngine((), SeriesStore()).next_due(T0) == float("inf")


def test_an_event_fires_an_alert_without_waiting_for_the_interval() -> None:
    """A touched name evaluates the rules that read it, and no other rule."""
    store = SeriesStore()
    engine = RuleEngine(groups("alert: A, expr: x == 0", "alert: B, expr: y == 0"), store)
    engine.evaluate_due(T0)
    touched = put(store, "x", 0.0, T0 + 1, w="1")
    assert told(engine.evaluate_touched(touched, T0 + 1)) == [("A", AlertChange.FIRING)]
    assert [rule.last_at for rule in engine.rules()] == [T0 + 1, T0]
    assert engine.evaluate_touched({"unknown"}, T0 + 2) == []


def test_the_end_of_for_makes_a_rule_due_exactly_then() -> None:
    """`for: 1s` fires at one second, not at the next interval; `keep_firing_for` ends as exactly."""
    store = SeriesStore()
    engine = RuleEngine(groups("alert: A, expr: x == 0, for: 1s, keep_firing_for: 2s", "alert: B, expr: y"), store)
    engine.evaluate_due(T0)
    assert told(engine.evaluate_touched(put(store, "x", 0.0, T0 + 3.3), T0 + 3.3)) == [("A", AlertChange.PENDING)]
    assert engine.next_due(T0 + 3.3) - T0 == pytest.approx(4.3, abs=0.001)
    due = engine.next_due(T0 + 3.3)
    assert told(engine.evaluate_due(due)) == [("A", AlertChange.FIRING)]
    assert engine.rules()[1].last_at == T0
    assert engine.evaluate_touched(put(store, "x", 1.0, T0 + 6), T0 + 6) == []
    assert engine.next_due(T0 + 6) == T0 + 8
    assert told(engine.evaluate_due(T0 + 8)) == [("A", AlertChange.RESOLVED)]
    assert engine.next_due(T0 + 8) == T0 + 15


def test_an_event_reaches_alerts_through_recording_rules() -> None:
    """Recording rules are evaluated first, even those that stand later, and their stale series end alerts."""
    store = SeriesStore()
    rules = groups("alert: A, expr: 'm:z > 1'", "record: 'm:y', expr: sum by (w) (x)", "record: 'm:z', expr: 'm:y * 2'")
    engine = RuleEngine(rules, store)
    touched = put(store, "x", 4.0, T0, w="1")
    assert told(engine.evaluate_touched(touched, T0)) == [("A", AlertChange.FIRING)]
    (alert,) = engine.alerts()
    assert (alert.value, alert.label) == (8.0, {"alertname": "A", "w": "1"})
    store.mark_stale(store.select("x"), T0 + 1)
    assert told(engine.evaluate_touched({"x"}, T0 + 1)) == [("A", AlertChange.RESOLVED)]
    assert engine.query("m:z", T0 + 1) == []


def test_a_rule_without_a_name_reads_everything() -> None:
    """A selector that names no metric is evaluated at every event."""
    store = SeriesStore()
    engine = RuleEngine(groups("alert: A, expr: '{w=\"1\"} == 0'"), store)
    assert told(engine.evaluate_touched(put(store, "any", 0.0, T0, w="1"), T0)) == [("A", AlertChange.FIRING)]


def test_labels_and_annotations_are_rendered_and_win() -> None:
    """Rule labels replace those of the series, empty ones remove them, the alert's name is a label."""
    store = SeriesStore()
    rules = groups(
        "alert: A, expr: x > 1, labels: {severity: critical, job: '', t: 'w:{{ $labels.w }}'},"
        " annotations: {s: '{{ $value }} on {{ $labels.job }}'}"
    )
    engine = RuleEngine(rules, store)
    engine.evaluate_touched(put(store, "x", 2.5, T0, w="1", job="j", severity="low"), T0)
    (alert,) = engine.alerts()
    assert alert.label == {"alertname": "A", "severity": "critical", "t": "w:1", "w": "1"}
    assert alert.annotation == {"s": "2.5 on j"}
    assert alert.state is AlertState.FIRING


def test_one_rules_error_is_its_own() -> None:
    """An error is kept with its rule until the rule works again; the others go on; alerts keep their state."""
    store = SeriesStore()
    engine = RuleEngine(groups("alert: A, expr: x + on() y", "alert: B, expr: x"), store)
    put(store, "y", 1.0, T0)
    put(store, "x", 1.0, T0, w="1")
    assert told(engine.evaluate_due(T0)) == [("A", AlertChange.FIRING), ("B", AlertChange.FIRING)]
    put(store, "x", 1.0, T0 + 15, w="2")
    assert told(engine.evaluate_due(T0 + 15)) == [("B", AlertChange.FIRING)]
    status = engine.rules()[0]
    assert "multiple matches" in status.last_error
    assert (status.state, status.alerts, status.kind) == ("firing", 1, "alert")
    store.mark_stale([one for one in store.select("x") if one.labels == labels_of(w="2")], T0 + 30)
    engine.evaluate_due(T0 + 30)
    assert engine.rules()[0].last_error == ""


def test_an_error_at_a_deadline_waits_for_the_interval() -> None:
    """A rule that cannot be evaluated when its `for` ends is not tried again and again."""
    store = SeriesStore()
    engine = RuleEngine(groups("alert: A, expr: x + on() y, for: 5s"), store)
    put(store, "y", 1.0, T0)
    put(store, "x", 1.0, T0, w="1")
    assert told(engine.evaluate_due(T0)) == [("A", AlertChange.PENDING)]
    put(store, "x", 1.0, T0 + 1, w="2")
    assert engine.evaluate_due(T0 + 5) == []
    assert engine.rules()[0].last_error
    assert engine.next_due(T0 + 5) == T0 + 15


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ("alert: A, expr: x, labels: {w: same}", "two alerts have the same labels"),
        ("record: r, expr: x, labels: {w: same}", "two results have the same labels"),
        ("record: r, expr: '\"text\"'", "a string is no result"),
        ("record: r, expr: 'x[5m]'", "a range is no result"),
    ],
)
def test_a_rule_that_cannot_work_says_why(rule: str, error: str) -> None:
    """Whatever only shows when the rule runs is in its status."""
    store = SeriesStore()
    engine = RuleEngine(groups(rule), store)
    put(store, "x", 1.0, T0, w="1")
    put(store, "x", 1.0, T0, w="2")
    assert engine.evaluate_due(T0) == []
    assert error in engine.rules()[0].last_error


def test_an_annotation_that_fails_does_not_silence_its_alert() -> None:
    """The alert fires and carries the template's error in place of the text."""
    store = SeriesStore()
    engine = RuleEngine(groups("alert: A, expr: x, annotations: {s: '{{ humanize $labels.w }}'}"), store)
    put(store, "x", 1.0, T0, w="many")
    assert told(engine.evaluate_due(T0)) == [("A", AlertChange.FIRING)]
    assert engine.alerts()[0].annotation["s"].startswith("<error expanding template: humanize")
    assert "humanize" in engine.rules()[0].last_error


def test_a_groups_limit_raises_nothing_rather_than_everything() -> None:
    """More results than the limit are an error, and alerts end."""
    store = SeriesStore()
    engine = RuleEngine(groups("record: r, expr: x", "alert: A, expr: r", limit=1), store)
    put(store, "x", 1.0, T0, w="1")
    assert told(engine.evaluate_due(T0)) == [("A", AlertChange.FIRING)]
    put(store, "x", 1.0, T0 + 15, w="2")
    assert told(engine.evaluate_due(T0 + 15)) == [("A", AlertChange.RESOLVED)]
    assert "limit of 1" in engine.rules()[0].last_error


def test_for_goes_on_over_a_restart() -> None:
    """A pending alert that is restored fires when its `for` ends, counted from before the restart."""
    store, rules = SeriesStore(), groups("alert: A, expr: x == 0, for: 1m")
    before = RuleEngine(rules, store)
    put(store, "x", 0.0, T0, w="1")
    before.evaluate_due(T0)
    again = SeriesStore()
    after = RuleEngine(rules, again)
    assert after.restore(before.alerts()) == []
    put(again, "x", 0.0, T0 + 40, w="1")
    assert after.evaluate_due(T0 + 40) == []
    assert after.next_due(T0 + 40) == T0 + 55
    assert told(after.evaluate_due(T0 + 60)) == [("A", AlertChange.FIRING)]


def test_a_start_without_measurements_resolves_nothing() -> None:
    """A restored alert is held until what its rule reads is measured, but not for ever."""
    store, rules = SeriesStore(), groups("alert: A, expr: x == 0", "alert: B, expr: y == 0")
    before = RuleEngine(rules, store)
    put(store, "x", 0.0, T0)
    put(store, "y", 0.0, T0)
    before.evaluate_due(T0)
    again = SeriesStore()
    after = RuleEngine(rules, again)
    after.restore(before.alerts())
    assert after.evaluate_due(T0 + 5) == []
    assert len(after.alerts()) == 2
    assert told(after.evaluate_touched(put(again, "x", 1.0, T0 + 6), T0 + 6)) == [("A", AlertChange.RESOLVED)]
    assert told(after.evaluate_due(T0 + 5 + RESTORE_GRACE_SECONDS)) == [("B", AlertChange.RESOLVED)]


@pytest.mark.parametrize(
    ("rules", "covered"),
    [
        (("alert: A, expr: 'increase(x[15m]) >= 3'",), 900),
        (("alert: A, expr: 'increase(x[10m] offset 5m) >= 3'",), 900),
        (("alert: A, expr: 'max_over_time(increase(x[5m])[10m:1m]) >= 3'",), 900),
        (("alert: A, expr: 'max_over_time(r[5m]) >= 3'", "record: r, expr: 'increase(x[10m])'"), 900),
        (("alert: A, expr: 'increase(x[6h]) >= 3'",), 3600),
    ],
    ids=["range", "offset", "subquery", "recorded", "beyond-retention"],
)
def test_a_restored_alert_over_a_window_stays_until_the_window_is_measured_again(
    rules: tuple[str, ...], covered: int
) -> None:
    """It fires on, as it was, over quiet measurements and the end of the first round, and ends once the rule's longest
    look back holds nothing but measurements of this life."""
    store, known = SeriesStore(), groups(*rules)
    before = RuleEngine(known, store)
    for step in range(120):
        put(store, "x", float(step), T0 + 15 * step, w="1")
        before.evaluate_due(T0 + 15 * step)
    (alert,) = before.alerts()
    start = T0 + 15 * 120
    again = SeriesStore()
    after = RuleEngine(known, again)
    after.restore([alert])
    after.measured()
    for at in range(0, covered, 15):
        put(again, "x", 120.0, start + at, w="1")
        assert after.evaluate_due(start + at) == []
    assert after.alerts() == [alert]
    assert after.replace(known, start + covered - 1) == []
    put(again, "x", 120.0, start + covered, w="1")
    assert told(after.evaluate_due(start + covered)) == [("A", AlertChange.RESOLVED)]


def test_a_restored_alert_over_a_window_goes_on_as_any_other_while_it_holds() -> None:
    """What fires again within the window is the same alert with a new value, and `keep_firing_for` begins where the
    expression does not hold over a window that is covered."""
    store = SeriesStore()
    rules = groups("alert: A, expr: 'max_over_time(x[1m]) > 3', keep_firing_for: 30s")
    before = RuleEngine(rules, store)
    put(store, "x", 9.0, T0, w="1")
    before.evaluate_due(T0)
    again = SeriesStore()
    after = RuleEngine(rules, again)
    after.restore(before.alerts())
    put(again, "x", 5.0, T0 + 15, w="1")
    assert after.evaluate_due(T0 + 15) == []
    assert [alert.value for alert in after.alerts()] == [5.0]
    put(again, "x", 0.0, T0 + 90, w="1")
    assert after.evaluate_due(T0 + 90) == []
    assert told(after.evaluate_due(T0 + 120)) == [("A", AlertChange.RESOLVED)]


def test_a_restored_alert_finds_the_rule_with_its_labels() -> None:
    """Of two rules with one name the fixed labels tell which; an alert of no rule is handed back."""
    store = SeriesStore()
    rules = groups(
        "alert: A, expr: x > 9, labels: {severity: critical}", "alert: A, expr: x > 1, labels: {severity: w}"
    )
    before = RuleEngine(rules, store)
    put(store, "x", 5.0, T0)
    before.evaluate_due(T0)
    (alert,) = before.alerts()
    after = RuleEngine(rules, store)
    assert after.restore([alert]) == []
    assert [rule.alerts for rule in after.rules()] == [0, 1]
    assert after.evaluate_due(T0 + 1) == []
    assert RuleEngine(groups("alert: B, expr: x"), store).restore([alert]) == [alert]


def test_a_reload_keeps_what_did_not_change_and_ends_the_rest() -> None:
    """The same rule keeps its alert and its interval; a rule that is gone resolves or forgets its own."""
    store = SeriesStore()
    engine = RuleEngine(
        groups("alert: A, expr: x", "alert: B, expr: x", "alert: C, expr: x, for: 5m", "record: r, expr: x"), store
    )
    put(store, "x", 1.0, T0)
    engine.evaluate_due(T0)
    events = engine.replace(groups("alert: A, expr: x, for: 1h, annotations: {s: new}"), T0 + 1)
    assert told(events) == [("B", AlertChange.RESOLVED), ("C", AlertChange.FORGOTTEN)]
    assert [alert.rule for alert in engine.alerts()] == ["A"]
    assert engine.next_due(T0 + 1) == T0 + 15
    assert engine.query("r", T0 + 1) == []
    assert engine.evaluate_due(T0 + 15) == []
    assert engine.alerts()[0].annotation == {"s": "new"}
    assert told(engine.replace(())) == [("A", AlertChange.RESOLVED)]


def test_a_query_for_people() -> None:
    """`query` gives the value now, or one line that says what is wrong."""
    store = SeriesStore()
    engine = RuleEngine((), store)
    put(store, "x", 2.0, T0, w="1")
    assert engine.query("x * 2", T0) == [(labels_of(w="1"), 4.0)]
    assert engine.query("1 + 1", T0) == 2.0
    with pytest.raises(QueryError, match="nope"):
        engine.query("nope(x)", T0)
