"""Round trips through real SQLite: incidents, stories, alerts, runs, effects, facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from watchdog.core.incidents import Incident, open_incident
from watchdog.core.ladder import Attempt, RungOutcome
from watchdog.core.model import (
    Alert,
    AlertChange,
    AlertEvent,
    AlertState,
    IncidentState,
    Outcome,
    TimelineEntry,
    labels_of,
)
from watchdog.core.permission import PastEffect, Pause
from watchdog.core.steadiness import Trouble
from watchdog.errors import StoreError
from watchdog.store.alerts import Alerts
from watchdog.store.database import Database
from watchdog.store.facts import Facts
from watchdog.store.incidents import Incidents
from watchdog.store.runs import Effect, Run, Runs


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "proxywatch.db")
    yield opened
    opened.close()


def alert(name: str = "Down", **more: str) -> Alert:
    labels = labels_of(more, alertname=name, target="service:web", note='quo"te\nund ünïcode')
    return Alert(f"group/{name}", labels, labels_of(summary="s"), AlertState.FIRING, float("inf"), 5.0, 6.0, 7.0)


def incident(key: str = "service:web", opened_at: float = 10.0) -> Incident:
    return open_incident(key, alert(), opened_at)


def begin(runs: Runs, incident_id: int | None = None, target: str = "service:web", now: float = 20.0) -> Run:
    return runs.begin(
        incident_id=incident_id, playbook="restore", target=target, trigger="alert", labels={"service": "web"}, now=now
    )


def intend(runs: Runs, run: Run, *, step: int = 0, disruptive: bool = True, now: float = 30.0) -> Effect:
    return runs.intend(
        run,
        rung="restart",
        attempt=1,
        step=step,
        action="command",
        arguments={"argv": ["true"], "timeout": 1.5},
        survey={"pid": 7, "start": None},
        disruptive=disruptive,
        now=now,
    )


def test_an_incident_comes_back_as_it_went(database: Database) -> None:
    """Every field of an incident survives, whether inserted or updated; an unknown id is None."""
    incidents = Incidents(database)
    saved = incidents.save(incident())
    assert saved.id > 0
    assert incidents.get(saved.id) == saved
    full = replace(
        saved,
        state=IncidentState.ESCALATED,
        acted_at=11.0,
        escalated_at=12.0,
        acknowledged_at=13.0,
        acknowledged_by="ann",
        reason="why",
        told=2,
        healed=True,
        firing=(),
        alertnames=("Down", "Slow"),
    )
    assert incidents.save(full) == full
    assert incidents.get(full.id) == full
    assert incidents.get(99) is None


def test_at_most_one_unresolved_incident_a_target(database: Database) -> None:
    """A second unresolved incident of one key is refused by the store itself; after the end a new one may open."""
    incidents = Incidents(database)
    first = incidents.save(incident())
    with pytest.raises(StoreError, match="UNIQUE"):
        incidents.save(incident())
    incidents.save(replace(first, state=IncidentState.RESOLVED, resolved_at=20.0))
    second = incidents.save(incident(opened_at=30.0))
    assert [i.id for i in incidents.unresolved()] == [second.id]
    assert [i.id for i in incidents.latest()] == [second.id, first.id]
    assert [i.id for i in incidents.latest(limit=1)] == [second.id]


def test_troubles_reach_back_as_far_as_asked(database: Database) -> None:
    """By target, in order of time: what is unresolved, and what was resolved at or after `since`."""
    incidents = Incidents(database)
    for opened_at, resolved_at in ((10.0, 15.0), (20.0, 25.0), (30.0, None)):
        saved = incidents.save(incident(opened_at=opened_at))
        if resolved_at is not None:
            incidents.save(replace(saved, state=IncidentState.RESOLVED, resolved_at=resolved_at))
    incidents.save(incident("host", 5.0))
    assert incidents.troubles_of("host", 25.0) == (Trouble(5.0, None),)
    assert incidents.troubles_of("service:web", 25.0) == (Trouble(20.0, 25.0), Trouble(30.0, None))


def test_a_story_is_told_in_order(database: Database) -> None:
    """Lines come back oldest first with their data; a line for an incident that does not exist is refused."""
    incidents = Incidents(database)
    saved = incidents.save(incident())
    lines = [TimelineEntry(float(n), "note", f"line {n}", {"n": n, "deep": {"x": [1]}}) for n in range(3)]
    for line in lines:
        incidents.tell(saved.id, line)
    incidents.tell(saved.id, TimelineEntry(9.0, "note", "odd", {"path": Path("/x")}))
    assert incidents.story(saved.id)[:3] == lines
    assert incidents.story(saved.id)[3].data == {"path": "/x"}
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        incidents.tell(99, lines[0])


def test_pruning_forgets_the_old_with_all_that_belongs_to_it(database: Database) -> None:
    """What was resolved before goes with story, runs and effects; the unresolved and the recent stay."""
    incidents, runs = Incidents(database), Runs(database)
    kept = {}
    for key, resolved_at in (("service:old", 15.0), ("service:new", 50.0), ("service:open", None)):
        saved = incidents.save(incident(key))
        incidents.tell(saved.id, TimelineEntry(1.0, "note", "x"))
        intend(runs, begin(runs, saved.id, key))
        if resolved_at is not None:
            incidents.save(replace(saved, state=IncidentState.RESOLVED, resolved_at=resolved_at))
        kept[key] = saved.id
    assert incidents.prune(50.0) == 1
    assert incidents.get(kept["service:old"]) is None
    assert incidents.story(kept["service:old"]) == []
    assert runs.of_incident(kept["service:old"]) == []
    assert {e.target for e in runs.past_effects(0.0)} == {"service:new", "service:open"}


def test_alerts_follow_their_changes(database: Database) -> None:
    """Pending and firing ones are kept as they last were, an infinite value included; resolved and forgotten go."""
    alerts = Alerts(database)
    pending = replace(alert("A"), state=AlertState.PENDING, fired_at=None)
    other = alert("B", worker="0")
    alerts.apply([AlertEvent(AlertChange.PENDING, pending, 1.0), AlertEvent(AlertChange.FIRING, other, 1.0)])
    assert sorted(alerts.all(), key=lambda a: a.rule) == [pending, other]
    firing = replace(pending, state=AlertState.FIRING, fired_at=9.0)
    alerts.apply([AlertEvent(AlertChange.FIRING, firing, 2.0), AlertEvent(AlertChange.RESOLVED, other, 2.0)])
    assert alerts.all() == [firing]
    alerts.apply([AlertEvent(AlertChange.FORGOTTEN, firing, 3.0)])
    assert alerts.all() == []


def test_a_run_remembers_its_attempts(database: Database) -> None:
    """A run comes back with labels and attempts, is unended until it is ended, and belongs to its incident."""
    runs, saved = Runs(database), Incidents(database).save(incident())
    run = begin(runs, saved.id)
    alone = begin(runs, None)
    assert (run.state, run.attempts, run.ended_at, dict(run.labels)) == ("running", (), None, {"service": "web"})
    for outcome in RungOutcome:
        run = runs.attempted(run, Attempt("restart", outcome, f"was {outcome}"))
    assert runs.get(run.id) == run
    assert [a.outcome for a in run.attempts] == list(RungOutcome)
    assert [r.id for r in runs.unended()] == [run.id, alone.id]
    runs.end(run, "verified", 40.0)
    assert [r.id for r in runs.unended()] == [alone.id]
    ended = runs.get(run.id)
    assert ended is not None
    assert (ended.state, ended.ended_at, ended.attempts) == ("verified", 40.0, run.attempts)
    assert [r.id for r in runs.of_incident(saved.id)] == [run.id]
    assert runs.get(99) is None


def test_an_effect_is_intended_once_and_ends_once(database: Database) -> None:
    """An intent has no outcome and a key of its own; the first conclusion stays, a second changes nothing."""
    runs = Runs(database)
    run = begin(runs)
    first, again = intend(runs, run), intend(runs, run)
    assert first.key != again.key
    assert (first.outcome, first.ended_at, first.note) == (None, None, "")
    assert (first.survey, first.arguments) == ({"pid": 7, "start": None}, {"argv": ["true"], "timeout": 1.5})
    runs.conclude(first, Outcome.DONE, "exit 0", 31.0)
    runs.conclude(first, Outcome.FAILED, "no", 32.0)
    assert runs.effects_of(run.id) == [replace(first, outcome=Outcome.DONE, note="exit 0", ended_at=31.0), again]


@pytest.mark.parametrize(("outcome", "counts"), [*((o, o is not Outcome.NOT_DONE) for o in Outcome), (None, True)])
def test_budgets_count_everything_not_proven_undone(database: Database, outcome: Outcome | None, counts: bool) -> None:
    """Done, failed, unknown and open effects count from their intent on; only a proven «not done» does not."""
    runs = Runs(database)
    run = begin(runs)
    effect = intend(runs, run, disruptive=False)
    if outcome is not None:
        runs.conclude(effect, outcome, "", 99.0)
    expected = (PastEffect("restore", "service:web", 30.0, False),) if counts else ()
    assert runs.past_effects(30.0) == expected
    assert runs.past_effects(30.1) == ()


def test_pauses_are_a_list_of_reasons(database: Database) -> None:
    """Several reasons hold at once, a past one holds no more, and resuming takes all away."""
    facts = Facts(database)
    assert facts.pauses(0.0) == ()
    care, move = Pause("care", "ann", 1.0), Pause("move", "bob", 2.0, until=5.0)
    facts.pause(care, 1.0)
    facts.pause(move, 2.0)
    assert facts.pauses(4.9) == (care, move)
    assert facts.pauses(5.0) == (care,)
    assert facts.resume() == 2
    assert facts.pauses(4.9) == ()
    assert facts.resume() == 0


def test_facts_are_json_by_name(database: Database) -> None:
    """A fact is replaced whole, an unknown one is None, and nothing but JSON goes in."""
    facts = Facts(database)
    facts.put("generation", 1)
    facts.put("generation", {"n": 2})
    assert facts.get("generation") == {"n": 2}
    assert facts.get("unknown") is None
    with pytest.raises(TypeError):
        facts.put("bad", object())
