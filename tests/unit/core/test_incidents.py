"""An incident's life: every pair of state and event, and what it keeps on the way."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.core.incidents import (
    TRANSITIONS,
    Incident,
    IncidentEvent,
    alert_fired,
    alert_resolved,
    open_incident,
    severity_rank,
    transition,
)
from watchdog.core.model import Alert, AlertState, IncidentState, labels_of
from watchdog.errors import TransitionError

E, S = IncidentEvent, IncidentState
PAIRS = list(product(S, E))


def alert(name: str = "Down", severity: str = "warning", summary: str = "", active_at: float = 90.0) -> Alert:
    labels = labels_of(alertname=name, severity=severity, target="service:web")
    return Alert("rule", labels, labels_of(summary=summary), AlertState.FIRING, 1.0, active_at=active_at)


def incident(state: IncidentState = S.OPEN) -> Incident:
    return replace(open_incident("service:web", alert(), 100.0), id=7, state=state, reason="before")


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_every_pair_is_in_the_table_or_raises_naming_both(state: IncidentState, event: IncidentEvent) -> None:
    """An event either moves the incident as the table says or raises an error that names state, event and incident."""
    if (state, event) in TRANSITIONS:
        assert transition(incident(state), event, 200.0).state is TRANSITIONS[state, event]
        return
    with pytest.raises(TransitionError, match="incident 7") as caught:
        transition(incident(state), event, 200.0)
    assert (caught.value.state, caught.value.event) == (state, event)
    assert repr(str(state)) in str(caught.value) or str(state) in str(caught.value)
    assert str(event) in str(caught.value)


@pytest.mark.parametrize("event", list(E))
def test_resolved_is_final(event: IncidentEvent) -> None:
    """Nothing whatever leaves `resolved`."""
    with pytest.raises(TransitionError):
        transition(incident(S.RESOLVED), event, 200.0)


@pytest.mark.parametrize("state", [state for state in S if state is not S.RESOLVED])
def test_what_must_be_possible_everywhere(state: IncidentState) -> None:
    """Any unresolved incident takes a further alert without changing state, can escalate, and can recover."""
    assert transition(incident(state), E.ALERT_FIRED, 1.0).state is state
    assert transition(incident(state), E.ESCALATED, 1.0).state is S.ESCALATED
    assert transition(incident(state), E.RECOVERED, 1.0).state is S.RESOLVED


def test_healing_begins_only_with_a_run_and_verifying_only_after_an_act() -> None:
    """Nobody reaches `healing` except by a run's start or a failed rung, nor `verifying` except by an act."""
    into = {state: {e for (s, e), end in TRANSITIONS.items() if end is state and s is not state} for state in S}
    assert into[S.HEALING] == {E.RUN_STARTED, E.RUNG_FAILED}
    assert into[S.VERIFYING] == {E.ACTED}
    assert into[S.RESOLVED] == {E.RECOVERED}
    assert into[S.ESCALATED] == {E.ESCALATED}


@given(st.lists(st.sampled_from(list(E)), max_size=12))
def test_any_history_keeps_its_times_in_order(events: list[IncidentEvent]) -> None:
    """Over any history: the first escalation's time stays, resolution has a time exactly when it is resolved, and only
    mitigation marks it healed."""
    now, current = 100.0, incident()
    first_escalation: float | None = None
    mitigated = False
    for event in events:
        now += 1
        try:
            current = transition(current, event, now)
        except TransitionError:
            continue
        if event is E.ESCALATED and first_escalation is None:
            first_escalation = now
        mitigated = mitigated or event is E.MITIGATED
        assert current.escalated_at == first_escalation
        assert (current.resolved_at is not None) is (current.state is S.RESOLVED)
        assert current.healed is mitigated


def test_a_reason_is_kept_until_a_new_one_is_given() -> None:
    """An event without a reason keeps the last one."""
    assert transition(incident(), E.RUN_STARTED, 1.0).reason == "before"
    assert transition(incident(), E.ESCALATED, 1.0, "budget spent").reason == "budget spent"


def test_the_first_alert_gives_the_incident_its_face() -> None:
    """An incident takes title, severity, labels and beginning from its first alert."""
    first = alert(severity="critical", summary="web is down", active_at=40.0)
    opened = open_incident("service:web", first, 100.0)
    assert (opened.id, opened.state, opened.title, opened.severity) == (0, S.OPEN, "web is down", "critical")
    assert opened.firing == (first.fingerprint,)
    assert opened.alertnames == ("Down",)
    assert opened.seconds_to_detect == 60.0
    assert open_incident("service:web", alert(active_at=170.0), 100.0).seconds_to_detect == 0.0


def test_a_nameless_alert_still_gives_a_title() -> None:
    """Without summary the alert's name is the title, and without a name the target; severity is `warning`."""
    bare = Alert("rule", (), (), AlertState.FIRING, 1.0, active_at=1.0)
    opened = open_incident("service:web", bare, 2.0)
    assert (opened.title, opened.severity) == ("service:web", "warning")
    assert open_incident("service:web", alert("Slow"), 2.0).title == "Slow"


def test_the_three_durations() -> None:
    """Detection counts from the first wrong measurement, action from the incident, repair from the beginning."""
    current = incident()
    assert (current.seconds_to_act, current.seconds_to_repair) == (None, None)
    ended = replace(current, acted_at=103.0, resolved_at=130.0)
    assert (ended.seconds_to_detect, ended.seconds_to_act, ended.seconds_to_repair) == (10.0, 3.0, 40.0)


@pytest.mark.parametrize(
    ("severity", "title", "taken"), [("info", "Down", False), ("warning", "Down", False), ("critical", "More", True)]
)
def test_only_a_more_severe_alert_changes_the_face(severity: str, title: str, taken: bool) -> None:
    """A further alert renames the incident only when it is more severe than any before."""
    further = alert("More", severity)
    grown = alert_fired(incident(), further, 120.0)
    assert grown.title == title
    assert (grown.labels == further.labels) is taken
    assert grown.severity == (severity if taken else "warning")
    assert grown.alertnames == ("Down", "More")
    assert len(grown.firing) == 2


def test_a_more_severe_alert_brings_its_summary() -> None:
    """The most severe alert's summary becomes the title."""
    assert alert_fired(incident(), alert("More", "critical", "all is lost"), 120.0).title == "all is lost"


def test_the_same_alert_twice_counts_once() -> None:
    """An alert that fires again is neither listed nor counted twice; taking it out once empties the list."""
    again = alert_fired(incident(), alert(), 120.0)
    assert again.firing == (alert().fingerprint,)
    assert again.alertnames == ("Down",)
    assert alert_resolved(again, alert().fingerprint).firing == ()
    assert alert_resolved(again, "unknown").firing == again.firing


def test_severities_are_ordered_and_an_unknown_one_is_a_warning() -> None:
    """info < warning < critical; what nobody knows ranks as a warning."""
    assert [severity_rank(s) for s in ("info", "warning", "critical", "page-me")] == [0, 1, 2, 1]
