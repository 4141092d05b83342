"""What happened, over all incidents, runs and pauses, in the order in which it happened."""

from __future__ import annotations

from dataclasses import dataclass

from watchdog.store.database import Database


@dataclass(frozen=True, slots=True)
class Happening:
    """One line. `incident_id` None: of a run without an incident, or (with an empty `target`) of the whole agent."""

    at: float
    kind: str
    text: str
    target: str = ""
    incident_id: int | None = None


class History:
    """Reads what incidents, runs and effects wrote; keeps what belongs to none of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, at: float, kind: str, text: str) -> None:
        """Something that happened to the whole agent."""
        self._database.execute("INSERT INTO happenings (at, kind, text) VALUES (?, ?, ?)", (at, kind, text))

    def since(self, since: float) -> list[Happening]:
        """Everything since then but evidence, oldest first; a run without an incident by its begin, effects and end."""
        rows = self._database.query(
            """
            SELECT at, kind, text, target, incident FROM (
                SELECT t.at, t.kind, t.text, i.key AS target, i.id AS incident, 1 AS source, t.id AS number
                FROM timeline t JOIN incidents i ON i.id = t.incident_id WHERE t.at >= :since AND t.kind != 'evidence'
                UNION ALL
                SELECT at, kind, text, '', NULL, 0, id FROM happenings WHERE at >= :since
                UNION ALL
                SELECT started_at, 'run', 'playbook ' || playbook || ' begins (run ' || id || ', by ' || trigger || ')',
                    target, NULL, 2, id
                FROM runs WHERE incident_id IS NULL AND started_at >= :since
                UNION ALL
                SELECT coalesce(e.ended_at, e.intended_at), coalesce(e.outcome, 'intent'),
                    e.action || CASE e.note WHEN '' THEN '' ELSE ': ' || e.note END, e.target, NULL, 3, e.id
                FROM effects e JOIN runs r ON r.id = e.run_id
                WHERE r.incident_id IS NULL AND e.intended_at >= :since
                UNION ALL
                SELECT ended_at, state, 'run ' || id || ' of ' || playbook || ': ' || state, target, NULL, 4, id
                FROM runs WHERE incident_id IS NULL AND ended_at >= :since
            ) ORDER BY at, source, number
            """,
            {"since": since},
        )
        return [Happening(row["at"], row["kind"], row["text"], row["target"], row["incident"]) for row in rows]
