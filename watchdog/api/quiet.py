"""How what people asked for stands: silences, maintenance, approvals that wait. Parts in, JSON-able dicts out."""

from __future__ import annotations

from typing import Any

from watchdog.api.parts import Parts
from watchdog.api.plan import steps
from watchdog.api.shapes import moment
from watchdog.api.views import current_rung
from watchdog.core.permission import Approval
from watchdog.core.silences import Maintenance, Silence, maintaining, silencing
from watchdog.core.targets import parse_target
from watchdog.store.runs import Run

Shape = dict[str, Any]


def silences(parts: Parts) -> list[Shape]:
    """Those that have not ended, first the one that ends first."""
    found = sorted(parts.facts.silences(parts.clock.now()), key=lambda silence: silence.until)
    return [silence_shape(parts, silence) for silence in found]


def silence_shape(parts: Parts, silence: Silence) -> Shape:
    """One silence; `covers` are the unresolved incidents of which nobody is told because of it."""
    now = parts.clock.now()
    covered = [i.id for i in parts.desk.unresolved if silencing([silence], dict(i.labels), now)]
    return {
        "id": silence.id,
        "matchers": ", ".join(map(str, silence.matchers)),
        "since": moment(silence.since),
        "until": moment(silence.until),
        "by": silence.by,
        "comment": silence.comment,
        "covers": covered,
    }


def maintenance(parts: Parts) -> list[Shape]:
    """Windows that have not ended, first the one that ends first."""
    found = sorted(parts.facts.maintenance(parts.clock.now()), key=lambda window: window.until)
    return [maintenance_shape(parts, window) for window in found]


def maintenance_shape(parts: Parts, window: Maintenance) -> Shape:
    """One window; `covers` are the unresolved incidents that it leaves to people."""
    now = parts.clock.now()
    covered = [i.id for i in parts.desk.unresolved if maintaining([window], parse_target(i.key), now)]
    return {
        "id": window.id,
        "targets": list(window.targets),
        "since": moment(window.since),
        "until": moment(window.until),
        "by": window.by,
        "comment": window.comment,
        "covers": covered,
    }


def approvals(parts: Parts) -> list[Shape]:
    """Runs that wait for a person's word: run, playbook, target, incident, rung, does, asked_at, until."""
    now = parts.clock.now()
    return [
        _asking(parts, run, run.approval)
        for run in parts.runs.unended()
        if run.approval is not None and run.approval.granted is None and now < run.approval.until
    ]


def _asking(parts: Parts, run: Run, approval: Approval) -> Shape:
    playbook = parts.runner.playbooks.get(run.playbook)
    place = current_rung(playbook, run) if playbook is not None else None
    return {
        "run": run.id,
        "playbook": run.playbook,
        "target": run.target,
        "incident": run.incident_id,
        "rung": place[0].rung if place else None,
        "does": [step["does"] for step in steps(parts, run, place[0].steps)] if place else [],
        "asked_at": moment(approval.asked_at),
        "until": moment(approval.until),
    }
