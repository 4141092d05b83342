"""A start at which the machine's clock stands before what was written last; and what is kept for the guards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from watchdog.clock import FakeClock
from watchdog.core.grouping import Group, GroupingState
from watchdog.core.incidents import open_incident
from watchdog.core.model import Alert, AlertState, TimelineEntry, labels_of
from watchdog.core.permission import Approval
from watchdog.core.routing import Delivery, RouteMatch
from watchdog.store.database import Database
from watchdog.store.future import bring_back, dated_by
from watchdog.store.incidents import Incidents
from watchdog.store.outbox import LONGEST_BACKOFF_SECONDS, Outbox
from watchdog.store.runs import Run, Runs

NOW = 1_700_000_000.0
LATER = NOW + 86400.0
ALERT = Alert("g/Down", labels_of(alertname="Down"), (), AlertState.FIRING, 1.0, LATER, LATER)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "proxywatch.db")
    yield opened
    opened.close()


def acted(database: Database, at: float, incident_id: int | None = None) -> Run:
    runs = Runs(database)
    run = runs.begin(
        incident_id=incident_id, playbook="restore", target="service:web", trigger="alert", labels={}, now=at
    )
    runs.intend(run, rung="one", attempt=1, step=0, action="command", arguments={}, survey={}, disruptive=True, now=at)
    runs.end(run, "verified", at)
    return run


def test_what_is_dated_in_the_future_counts_as_of_now(database: Database) -> None:
    """Budgets, backoff, retries and mail that were written a day ahead wait no longer than if written now; a second
    look changes nothing."""
    incident = Incidents(database).save(open_incident("service:web", ALERT, LATER))
    acted(database, LATER, incident.id)
    outbox = Outbox(database, FakeClock(LATER))
    match = RouteMatch("root", "mail", (), 30.0, 300.0, 3600.0, 0.0)
    outbox.put(Delivery("k", "mail", "g", (), (), 0, LATER, integration="email[0]"))
    outbox.save_grouping(GroupingState((Group(match, "g", (), due_at=LATER, sent_at=LATER, paged_at=LATER),), 1))
    asking = Runs(database).begin(
        incident_id=incident.id, playbook="ask", target="service:web", trigger="alert", labels={}, now=LATER
    )
    Runs(database).approve(asking, Approval(LATER, LATER + 60))
    assert bring_back(database, outbox, NOW) > 0
    asked = Runs(database).get(asking.id)
    assert asked is not None
    assert asked.approval == Approval(NOW, NOW + 60)
    Runs(database).end(asking, "refused", NOW)
    known = Incidents(database).get(incident.id)
    assert known is not None
    assert (known.started_at, known.opened_at) == (NOW, NOW)
    (effect,) = Runs(database).past_effects(0.0)
    assert effect.at == NOW
    run = Runs(database).of_incident(incident.id)[0]
    assert run.ended_at == NOW
    assert Incidents(database).troubles_of("service:web", 0.0)[0].opened_at == NOW
    due = outbox.next_due()
    assert due is not None
    assert due <= NOW + LONGEST_BACKOFF_SECONDS
    (group,) = outbox.load_grouping().groups
    assert (group.sent_at, group.paged_at) == (NOW, NOW)
    assert group.due_at is not None
    assert NOW < group.due_at <= NOW + max(match.group_wait, match.group_interval)
    assert bring_back(database, outbox, NOW) == 0


def test_a_restored_alert_has_no_time_in_the_future() -> None:
    """Its `for` and `keep_firing_for` would otherwise end as late as the clock was set back."""
    assert dated_by(ALERT, NOW) == replace(ALERT, active_at=NOW, fired_at=NOW)
    assert dated_by(replace(ALERT, false_since=LATER), NOW).false_since == NOW
    assert dated_by(ALERT, LATER) == ALERT


def test_runs_without_an_incident_are_forgotten_too(database: Database) -> None:
    """What a person ran goes with what is as old; what is younger stays in the budgets."""
    old, young = acted(database, NOW - 100), acted(database, NOW)
    Incidents(database).prune(NOW - 50)
    assert Runs(database).get(old.id) is None
    assert Runs(database).get(young.id) is not None
    assert [e.at for e in Runs(database).past_effects(0.0)] == [NOW]


def test_a_notice_reads_only_the_end_of_a_story(database: Database) -> None:
    """The last lines in order, without notices, however long the story is."""
    incidents = Incidents(database)
    incident = incidents.save(open_incident("service:web", ALERT, NOW))
    for number in range(20):
        incidents.tell(incident.id, TimelineEntry(NOW + number, "notice" if number == 18 else "alert", str(number)))
    assert [entry.text for entry in incidents.end_of_story(incident.id, 3)] == ["16", "17", "19"]
