"""What a playbook would do to a target, without doing any of it: for `--dry-run` and for `explain`.

Everything here only reads: the series, the store, the guards. Actions are built to be described, never surveyed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from watchdog.actions import Action, ActionSettings, actions
from watchdog.api.parts import Parts
from watchdog.api.shapes import denial, moment
from watchdog.api.views import verification
from watchdog.core.incidents import Incident
from watchdog.core.permission import Decision
from watchdog.core.targets import parse_target
from watchdog.errors import ProxywatchError
from watchdog.playbooks.schema import Playbook, Rung, fill
from watchdog.store.runs import Run

Shape = dict[str, Any]


def imagined_run(parts: Parts, playbook: Playbook, target: str, incident: Incident | None, trigger: str) -> Run:
    """A run as it would be begun now; its id 0 is in no store. Raises ValueError for a bad target."""
    labels = dict(incident.labels) if incident else {}
    labels.update(parse_target(target).labels)
    return Run(
        id=0,
        incident_id=incident.id if incident else None,
        playbook=playbook.name,
        target=target,
        trigger=trigger,
        state="imagined",
        labels=labels,
        attempts=(),
        started_at=parts.clock.now(),
        ended_at=None,
    )


def decision(parts: Parts, playbook: Playbook, run: Run, rung: Rung) -> Decision:
    """What the guards say to this rung now."""
    guards = parts.runner.guards
    return guards.ask(parts.runner.clearance.wish(run, playbook, rung), playbook, run.incident_id)


def plan(parts: Parts, playbook: Playbook, target: str, incident: Incident | None, trigger: str = "person") -> Shape:
    """What a run would do, rung by rung. Raises ValueError for a bad target. Keys: now, playbook, target, incident,
    trigger, autonomy, approval_expires_seconds, evidence, ladder [{rung, description, when, applies, attempts, steps,
    roll_back, verify, holds, autonomy, guards, by_itself}].

    `applies`: whether `when` holds now; `holds`: whether what the rung wants to reach holds already; `guards`: their
    answer to `trigger`, `by_itself`: their answer to the same rung if an alert had begun the run.
    """
    run = imagined_run(parts, playbook, target, incident, trigger)
    return {
        "now": moment(parts.clock.now()),
        "playbook": playbook.name,
        "target": target,
        "incident": run.incident_id,
        "trigger": trigger,
        "autonomy": playbook.autonomy,
        "approval_expires_seconds": playbook.approval_expires,
        "evidence": list(playbook.evidence),
        "ladder": [rung_plan(parts, playbook, run, rung) for rung in playbook.ladder],
    }


def rung_plan(parts: Parts, playbook: Playbook, run: Run, rung: Rung) -> Shape:
    """One rung of `plan`."""
    answer = decision(parts, playbook, run, rung)
    alone = decision(parts, playbook, replace(run, trigger="alert"), rung)
    when = fill(rung.when, run.labels)
    return {
        "rung": rung.rung,
        "description": rung.description,
        "when": when,
        "applies": not when or parts.verifier.holds(when),
        "attempts": rung.attempts,
        "steps": steps(parts, run, rung.steps),
        "roll_back": steps(parts, run, rung.roll_back),
        "verify": {**verification(rung), "expr": fill(rung.verify.expr, run.labels)},
        "holds": parts.verifier.healthy(run, playbook, rung),
        "autonomy": rung.autonomy or playbook.autonomy,
        "guards": _answer(answer),
        "by_itself": _answer(alone),
    }


def _answer(answer: Decision) -> Shape:
    return {"allowed": answer.allowed, "denials": [denial(d) for d in answer.denials]}


def steps(parts: Parts, run: Run, chosen: Iterable[ActionSettings]) -> list[Shape]:
    """Each step in words. A step that could not act on this target says why instead (`possible` False)."""
    context = parts.runner.context(run.target, run.labels)
    found = []
    for step in chosen:
        kind = str(step.model_dump(include={"kind"})["kind"])
        action: Action = actions.implementation(kind)(step, context)
        try:
            does, possible = action.describe(), True
        except ProxywatchError as error:
            does, possible = f"cannot be done: {error}", False
        found.append(
            {
                "action": kind,
                "does": does,
                "possible": possible,
                "disruptive": action.disruptive,
                "timeout_seconds": step.timeout,
                "retries": step.retries,
                "on_failure": step.on_failure,
            }
        )
    return found
