"""What was found of a cause is never too old to be told."""

from __future__ import annotations

from pathlib import Path

from watchdog.core.incidents import open_incident
from watchdog.core.model import Alert, AlertState, TimelineEntry, labels_of
from watchdog.store.database import Database
from watchdog.store.incidents import Incidents


def test_the_last_finding_stays_at_the_end_of_a_story(tmp_path: Path) -> None:
    """However much happened since, the newest finding is among the last lines, in its place, and only that one."""
    database = Database(tmp_path / "state.db")
    try:
        incidents = Incidents(database)
        alert = Alert("f", labels_of(alertname="A"), (), AlertState.FIRING, 1.0, 0.0)
        story = [("opened", "grows"), ("finding", "old"), ("finding", "new"), *[("done", str(n)) for n in range(20)]]
        incident = incidents.save(open_incident("worker:web/0", alert, 0.0))
        for at, (kind, text) in enumerate(story):
            incidents.tell(incident.id, TimelineEntry(float(at), kind, text))
        told = [entry.text for entry in incidents.end_of_story(incident.id, 3)]
    finally:
        database.close()
    assert told == ["new", "17", "18", "19"]
