"""Incidents and their timelines on disk."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from watchdog.core.incidents import Incident
from watchdog.core.model import IncidentState, Labels, TimelineEntry
from watchdog.core.steadiness import Trouble
from watchdog.store.database import Database


class Incidents:
    """One row an incident, one row a line of its story. The caller's transaction joins what belongs together."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, incident: Incident) -> Incident:
        """Inserts (id 0) or updates; returns it with its id."""
        body = json.dumps(asdict(incident), separators=(",", ":"))
        row = (incident.key, incident.state, body, incident.opened_at, incident.resolved_at)
        if incident.id == 0:
            statement = "INSERT INTO incidents (key, state, body, opened_at, resolved_at) VALUES (?, ?, ?, ?, ?)"
            identifier = self._database.execute(statement, row).lastrowid
            assert identifier is not None
            return replace(incident, id=identifier)
        statement = "UPDATE incidents SET key = ?, state = ?, body = ?, opened_at = ?, resolved_at = ? WHERE id = ?"
        self._database.execute(statement, (*row, incident.id))
        return incident

    def get(self, identifier: int) -> Incident | None:
        """One incident; None if there is none with this id."""
        rows = self._database.query("SELECT id, body FROM incidents WHERE id = ?", (identifier,))
        return _incident(rows[0]) if rows else None

    def unresolved(self) -> list[Incident]:
        """Those that are not over, oldest first."""
        return [
            _incident(row)
            for row in self._database.query("SELECT id, body FROM incidents WHERE resolved_at IS NULL ORDER BY id")
        ]

    def latest(self, limit: int = 50) -> list[Incident]:
        """The newest first."""
        rows = self._database.query("SELECT id, body FROM incidents ORDER BY id DESC LIMIT ?", (limit,))
        return [_incident(row) for row in rows]

    def troubles_of(self, key: str, since: float) -> tuple[Trouble, ...]:
        """When a target was unhealthy, as far as that reaches past `since`; oldest first."""
        rows = self._database.query(
            "SELECT opened_at, resolved_at FROM incidents WHERE key = ? AND (resolved_at IS NULL OR resolved_at >= ?)"
            " ORDER BY opened_at",
            (key, since),
        )
        return tuple(Trouble(row["opened_at"], row["resolved_at"]) for row in rows)

    def healed(self, key: str, since: float) -> list[float]:
        """When a repair of ours ended an incident of this target, since `since`; oldest first."""
        rows = self._database.query(
            "SELECT resolved_at FROM incidents WHERE key = ? AND resolved_at >= ? AND json_extract(body, '$.healed')"
            " ORDER BY resolved_at",
            (key, since),
        )
        return [row["resolved_at"] for row in rows]

    def tell(self, incident_id: int, entry: TimelineEntry) -> None:
        """Adds one line to an incident's story."""
        self._database.execute(
            "INSERT INTO timeline (incident_id, at, kind, text, data) VALUES (?, ?, ?, ?, ?)",
            (incident_id, entry.at, entry.kind, entry.text, json.dumps(entry.data, default=str)),
        )

    def story(self, incident_id: int) -> list[TimelineEntry]:
        """All lines of an incident's story, oldest first."""
        return self._lines("WHERE incident_id = ? ORDER BY id", incident_id)

    def end_of_story(self, incident_id: int, lines: int) -> list[TimelineEntry]:
        """The last lines of an incident's story without its notices, oldest first; what was found last of a cause is
        among them however long ago that was."""
        rest = (
            "WHERE incident_id = ?1 AND kind != 'notice' AND (id IN (SELECT id FROM timeline WHERE incident_id = ?1"
            " AND kind != 'notice' ORDER BY id DESC LIMIT ?2) OR id = (SELECT max(id) FROM timeline"
            " WHERE incident_id = ?1 AND kind = 'finding')) ORDER BY id"
        )
        return self._lines(rest, incident_id, lines)

    def evidence_since(self, incident_id: int, since: float) -> list[TimelineEntry]:
        """The evidence that was taken from `since` on, oldest first."""
        return self._lines("WHERE incident_id = ? AND at >= ? AND kind = 'evidence' ORDER BY id", incident_id, since)

    def thin_evidence(self, incident_id: int, run: int) -> None:
        """Takes the text out of the evidence of this run; its first line stays in the story."""
        self._database.execute(
            "UPDATE timeline SET data = json_remove(data, '$.text') WHERE incident_id = ? AND kind = 'evidence'"
            " AND json_extract(data, '$.run') = ?",
            (incident_id, run),
        )

    def _lines(self, rest: str, *parameters: float) -> list[TimelineEntry]:
        statement = f"SELECT at, kind, text, data FROM timeline {rest}"  # noqa: S608 - from the methods above
        rows = self._database.query(statement, parameters)
        return [TimelineEntry(row["at"], row["kind"], row["text"], json.loads(row["data"])) for row in rows]

    def prune(self, before: float) -> int:
        """Forgets incidents resolved before `before`, with their stories and runs, runs without an incident that ended
        before, and what else happened; returns how many incidents."""
        with self._database.transaction():
            self._database.execute("DELETE FROM happenings WHERE at < ?", (before,))
            self._database.execute("DELETE FROM runs WHERE incident_id IS NULL AND ended_at < ?", (before,))
            statement = "DELETE FROM incidents WHERE resolved_at IS NOT NULL AND resolved_at < ?"
            return self._database.execute(statement, (before,)).rowcount


def _incident(row: sqlite3.Row) -> Incident:
    body: dict[str, Any] = json.loads(row["body"])
    body.update(
        id=row["id"],
        state=IncidentState(body["state"]),
        labels=pairs(body["labels"]),
        annotations=pairs(body["annotations"]),
        firing=tuple(body["firing"]),
        alertnames=tuple(body["alertnames"]),
        heard=tuple(body.get("heard", ())),
    )
    return Incident(**body)


def pairs(value: list[list[str]] | Mapping[str, str]) -> Labels:
    """Labels as JSON gives them back."""
    items = value.items() if isinstance(value, Mapping) else value
    return tuple((name, text) for name, text in items)
