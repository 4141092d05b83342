"""Runs of playbooks and their effects: written as intended before, as done after, found again after a crash."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from watchdog.core.ladder import Attempt, RungOutcome
from watchdog.core.model import Outcome
from watchdog.core.past_effects import PastEffects
from watchdog.core.permission import Approval, PastEffect
from watchdog.store.database import Database, Stamp

_EFFECTS = "effects"


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the store knows it. `state`: running, verified, mitigated, exhausted, refused, cancelled."""

    id: int
    incident_id: int | None
    playbook: str
    target: str
    trigger: str
    state: str
    labels: Mapping[str, str]
    attempts: tuple[Attempt, ...]
    started_at: float
    ended_at: float | None
    approval: Approval | None = None
    """What a person was asked, and said, where the playbook's autonomy wants it."""
    cancelling: str = ""
    """Who cancelled it; what it is doing now is finished all the same."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One effect. `outcome` None: intended, and nobody has written yet how it ended."""

    id: int
    run_id: int
    key: str
    playbook: str
    target: str
    rung: str
    attempt: int
    step: int
    action: str
    arguments: Mapping[str, Any]
    survey: Mapping[str, Any]
    disruptive: bool
    intended_at: float
    outcome: Outcome | None
    note: str
    ended_at: float | None


class Runs:
    """One repository for runs and effects, which are always written together."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._past: tuple[Stamp, float, PastEffects] | None = None

    def begin(
        self,
        *,
        incident_id: int | None,
        playbook: str,
        target: str,
        trigger: str,
        labels: Mapping[str, str],
        now: float,
    ) -> Run:
        """A new run, under way from now."""
        position = json.dumps({"labels": dict(labels), "attempts": []})
        cursor = self._database.execute(
            "INSERT INTO runs (incident_id, playbook, target, trigger, state, position, started_at)"
            " VALUES (?, ?, ?, ?, 'running', ?, ?)",
            (incident_id, playbook, target, trigger, position, now),
        )
        found = self.get(cursor.lastrowid or 0)
        assert found is not None
        return found

    def attempted(self, run: Run, attempt: Attempt) -> Run:
        """Adds an ended attempt; returns the run with it."""
        now = self.get(run.id) or run
        return self._place(replace(now, attempts=(*run.attempts, attempt)))

    def approve(self, run: Run, approval: Approval) -> Run:
        """Writes what a person was asked, or answered; returns the run with it."""
        placed = self._place(replace(self.get(run.id) or run, approval=approval))
        self._database.flush()
        return placed

    def denied(self, incident_id: int | None, playbook: str, rung: str) -> bool:
        """Whether people said no to this rung, or nothing in time, in an ended run for the same incident."""
        if incident_id is None:
            return False
        rows = self._database.query(
            "SELECT 1 FROM runs WHERE incident_id = ? AND playbook = ? AND ended_at IS NOT NULL"
            " AND json_extract(position, '$.approval.rung') = ?"
            " AND json_extract(position, '$.approval.granted') IS NOT 1 LIMIT 1",
            (incident_id, playbook, rung),
        )
        return bool(rows)

    def cancel(self, run: Run, who: str) -> Run:
        """Writes that a person cancelled it; returns the run with it."""
        placed = self._place(replace(self.get(run.id) or run, cancelling=who))
        self._database.flush()
        return placed

    def _place(self, run: Run) -> Run:
        position = {
            "labels": dict(run.labels),
            "attempts": [{"rung": a.rung, "outcome": a.outcome, "note": a.note} for a in run.attempts],
            "approval": None if run.approval is None else asdict(run.approval),
            "cancelling": run.cancelling,
        }
        self._database.execute("UPDATE runs SET position = ? WHERE id = ?", (json.dumps(position), run.id))
        found = self.get(run.id)
        assert found is not None
        return found

    def end(self, run: Run, state: str, now: float) -> None:
        """The run is over."""
        self._database.execute("UPDATE runs SET state = ?, ended_at = ? WHERE id = ?", (state, now, run.id))

    def get(self, identifier: int) -> Run | None:
        """One run; None if there is none with this id."""
        rows = self._database.query("SELECT * FROM runs WHERE id = ?", (identifier,))
        return _run(rows[0]) if rows else None

    def unended(self) -> list[Run]:
        """Those that a crash or a stop left under way, oldest first."""
        return [_run(row) for row in self._database.query("SELECT * FROM runs WHERE ended_at IS NULL ORDER BY id")]

    def unended_of(self, incident_id: int) -> Run | None:
        """The one of this incident that is under way."""
        rows = self._database.query("SELECT * FROM runs WHERE incident_id = ? AND ended_at IS NULL", (incident_id,))
        return _run(rows[0]) if rows else None

    def halted(self) -> frozenset[str]:
        """Targets that a run which has not ended has stopped, and will start by itself."""
        statement = (
            "SELECT DISTINCT runs.target FROM runs JOIN effects ON effects.run_id = runs.id"
            " WHERE runs.ended_at IS NULL AND effects.action = 'stop_service'"
        )
        return frozenset(row["target"] for row in self._database.query(statement))

    def of_incident(self, incident_id: int) -> list[Run]:
        """All runs of one incident, oldest first."""
        rows = self._database.query("SELECT * FROM runs WHERE incident_id = ? ORDER BY id", (incident_id,))
        return [_run(row) for row in rows]

    def last_of_incident(self, incident_id: int) -> Run | None:
        """The newest run of one incident."""
        rows = self._database.query("SELECT * FROM runs WHERE incident_id = ? ORDER BY id DESC LIMIT 1", (incident_id,))
        return _run(rows[0]) if rows else None

    def tries(self, incident_id: int) -> dict[str, int]:
        """How many runs of each playbook one incident has had."""
        rows = self._database.query(
            "SELECT playbook, count(*) AS runs FROM runs WHERE incident_id = ? GROUP BY playbook", (incident_id,)
        )
        return {row["playbook"]: row["runs"] for row in rows}

    def healed(self, since: float) -> list[tuple[str, str, int]]:
        """How often a playbook has healed a target since then: `(playbook, target, runs)`."""
        rows = self._database.query(
            "SELECT playbook, target, count(*) AS runs FROM runs WHERE state = 'verified' AND ended_at > ?"
            " GROUP BY playbook, target ORDER BY playbook, target",
            (since,),
        )
        return [(row["playbook"], row["target"], row["runs"]) for row in rows]

    def unwatched(self, since: float) -> list[Run]:
        """Of each playbook and target the newest run that ended after `since`, that no person began and that belonged
        to no incident: nobody has heard how it ended. Cancelled ones do not count."""
        rows = self._database.query(
            "SELECT * FROM runs WHERE id IN (SELECT max(id) FROM runs WHERE incident_id IS NULL AND ended_at > ?"
            " AND trigger != 'person' AND state != 'cancelled' GROUP BY playbook, target) ORDER BY id",
            (since,),
        )
        return [_run(row) for row in rows]

    def intend(
        self,
        run: Run,
        *,
        rung: str,
        attempt: int,
        step: int,
        action: str,
        arguments: Mapping[str, Any],
        survey: Mapping[str, Any],
        disruptive: bool,
        now: float,
    ) -> Effect:
        """Writes that an effect is about to be tried. Its key is unique, so that the same one is never begun twice."""
        again = self._database.query(
            "SELECT count(*) AS n FROM effects WHERE run_id = ? AND rung = ? AND step = ?", (run.id, rung, step)
        )[0]["n"]
        key = f"{run.id}/{rung}/{attempt}/{step}/{again}"
        details = {"arguments": dict(arguments), "attempt": attempt, "disruptive": disruptive}
        cursor = self._database.execute(
            "INSERT INTO effects (run_id, key, playbook, target, rung, step, action, arguments, survey, intended_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                run.id,
                key,
                run.playbook,
                run.target,
                rung,
                step,
                action,
                json.dumps(details, default=str),
                json.dumps(survey),
                now,
            ),
        )
        self._database.touch(_EFFECTS)
        self._database.flush()
        return _effect(self._database.query("SELECT * FROM effects WHERE id = ?", (cursor.lastrowid,))[0])

    def conclude(self, effect: Effect, outcome: Outcome, note: str, now: float) -> None:
        """Writes how an effect ended; an ended one stays as it was."""
        self._database.execute(
            "UPDATE effects SET outcome = ?, note = ?, ended_at = ? WHERE id = ? AND outcome IS NULL",
            (outcome, note, now, effect.id),
        )
        self._database.touch(_EFFECTS)

    def effects_of(self, run_id: int) -> list[Effect]:
        """All effects of one run, oldest first."""
        return [
            _effect(r) for r in self._database.query("SELECT * FROM effects WHERE run_id = ? ORDER BY id", (run_id,))
        ]

    def past_effects(self, since: float) -> PastEffects:
        """What budgets and backoff count: everything intended since `since` that was not proven undone, oldest first;
        read again only when something was written, or too much was read last time."""
        stamp = self._database.stamp(_EFFECTS)
        if self._past is not None and self._past[0] == stamp and self._past[1] <= since:
            known = self._past[2]
            if not known or known[0].at >= since:
                return known
        self._past = (stamp, since, self._read_past_effects(since))
        return self._past[2]

    def _read_past_effects(self, since: float) -> PastEffects:
        rows = self._database.query(
            "SELECT e.playbook, e.target, e.intended_at, e.arguments, r.trigger FROM effects e"
            " JOIN runs r ON r.id = e.run_id"
            " WHERE e.intended_at >= ? AND (e.outcome IS NULL OR e.outcome != ?) ORDER BY e.intended_at",
            (since, Outcome.NOT_DONE),
        )
        return PastEffects(
            PastEffect(
                r["playbook"],
                r["target"],
                r["intended_at"],
                json.loads(r["arguments"])["disruptive"],
                r["trigger"] == "person",
            )
            for r in rows
        )


def _run(row: sqlite3.Row) -> Run:
    position = json.loads(row["position"])
    return Run(
        id=row["id"],
        incident_id=row["incident_id"],
        playbook=row["playbook"],
        target=row["target"],
        trigger=row["trigger"],
        state=row["state"],
        labels=position["labels"],
        attempts=tuple(Attempt(a["rung"], RungOutcome(a["outcome"]), a["note"]) for a in position["attempts"]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        approval=Approval(**position["approval"]) if position.get("approval") else None,
        cancelling=position.get("cancelling", ""),
    )


def _effect(row: sqlite3.Row) -> Effect:
    details = json.loads(row["arguments"])
    return Effect(
        id=row["id"],
        run_id=row["run_id"],
        key=row["key"],
        playbook=row["playbook"],
        target=row["target"],
        rung=row["rung"],
        attempt=details["attempt"],
        step=row["step"],
        action=row["action"],
        arguments=details["arguments"],
        survey=json.loads(row["survey"]),
        disruptive=details["disruptive"],
        intended_at=row["intended_at"],
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        note=row["note"],
        ended_at=row["ended_at"],
    )
