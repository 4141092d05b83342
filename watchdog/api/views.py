"""What the control API shows of probes, alerts, incidents, runs, rules and playbooks: Parts in, JSON-able dicts out.

Nothing here changes anything. Every answer holds `now`; every moment is `{"epoch", "iso"}`, every duration seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from watchdog.api.parts import Parts
from watchdog.api.shapes import denial, moment, number, seconds
from watchdog.core.incidents import Incident, severity_rank
from watchdog.core.ladder import RungLimit, Try, next_move
from watchdog.core.model import Alert, IncidentState, TimelineEntry
from watchdog.core.permission import Window
from watchdog.playbooks.schema import Playbook, Rung
from watchdog.probes import ProbeResult
from watchdog.store.runs import Effect, Run

Shape = dict[str, Any]


def probes(parts: Parts) -> Shape:
    """`{"now", "probes": [{name, kind, service, interval_seconds, timeout_seconds, state, last}]}` by name.

    `state` is ok, failed or waiting (not measured yet).
    """
    names = sorted(parts.loaded.config.probes)
    return {"now": moment(parts.clock.now()), "probes": [probe(parts, name) for name in names]}


def probe(parts: Parts, name: str, *, samples: bool = False) -> Shape:
    """One probe and its last result, with every sample if `samples`. KeyError for an unknown name."""
    settings = parts.loaded.config.probes[name]
    result = parts.pipeline.results.get(name)
    return {
        "name": name,
        "kind": settings.kind,
        "service": settings.service,
        "interval_seconds": settings.interval,
        "timeout_seconds": settings.timeout,
        "state": "waiting" if result is None else "failed" if result.error is not None else "ok",
        "last": None if result is None else probe_result(result, samples=samples),
    }


def probe_result(result: ProbeResult, *, samples: bool) -> Shape:
    """One run of a probe. `error` None: it measured."""
    shape: Shape = {
        "at": moment(result.started_at),
        "duration_seconds": round(result.duration, 6),
        "error": result.error,
        "note": result.note,
        "series": len(result.samples),
    }
    if samples:
        shape["samples"] = [
            {"name": s.name, "labels": dict(s.labels), "value": number(s.value)} for s in result.samples
        ]
    return shape


def alerts(parts: Parts, chosen: Iterable[Alert] | None = None) -> Shape:
    """`{"now", "alerts": [...]}`: all or the chosen ones, firing before pending, the most severe first."""
    owners = {fingerprint: i.id for i in parts.desk.unresolved for fingerprint in i.firing}
    known = parts.pipeline.engine.alerts() if chosen is None else chosen
    found = [_alert(alert, owners.get(alert.fingerprint)) for alert in known]
    found.sort(key=lambda a: (a["state"] != "firing", -severity_rank(a["severity"]), a["active_at"]["epoch"]))
    return {"now": moment(parts.clock.now()), "alerts": found}


def _alert(alert: Alert, incident_id: int | None) -> Shape:
    label = alert.label
    return {
        "name": label.get("alertname", alert.rule),
        "state": str(alert.state),
        "severity": label.get("severity", "warning"),
        "target": label.get("target", ""),
        "summary": alert.annotation.get("summary", ""),
        "value": number(alert.value),
        "active_at": moment(alert.active_at),
        "fired_at": moment(alert.fired_at),
        "fingerprint": alert.fingerprint,
        "incident": incident_id,
        "labels": label,
        "annotations": alert.annotation,
    }


def incidents(parts: Parts, *, everything: bool = False, limit: int = 50) -> Shape:
    """`{"now", "incidents": [...], "unresolved": n}`: the unresolved ones, or the latest `limit` of all."""
    chosen = parts.desk.incidents.latest(limit) if everything else parts.desk.unresolved[:limit]
    return {
        "now": moment(parts.clock.now()),
        "unresolved": len(parts.desk.unresolved),
        "incidents": summaries(parts, chosen),
    }


def summaries(parts: Parts, chosen: Iterable[Incident]) -> list[Shape]:
    """Each in a line or two; the runs under way are read once for all of them."""
    runs = {run.id: run for run in parts.runs.unended()}
    return [incident_summary(parts, incident, runs) for incident in chosen]


def incident_summary(parts: Parts, incident: Incident, runs: Mapping[int, Run] | None = None) -> Shape:
    """One incident in a line or two. `run` is the run under way, None if there is none; `runs` are those that are."""
    run_id = parts.runner.run_of(incident.id)
    run = None if run_id is None else parts.runs.get(run_id) if runs is None else runs.get(run_id)
    end = incident.resolved_at if incident.resolved_at is not None else parts.clock.now()
    return {
        "id": incident.id,
        "state": str(incident.state),
        "target": incident.key,
        "title": incident.title,
        "severity": incident.severity,
        "alertnames": list(incident.alertnames),
        "firing": len(incident.firing),
        "reason": incident.reason,
        "healed": incident.healed,
        "paged": incident.paged,
        "hands_off": incident.hands_off,
        "told": incident.told,
        "started_at": moment(incident.started_at),
        "opened_at": moment(incident.opened_at),
        "acted_at": moment(incident.acted_at),
        "escalated_at": moment(incident.escalated_at),
        "resolved_at": moment(incident.resolved_at),
        "acknowledged_at": moment(incident.acknowledged_at),
        "acknowledged_by": incident.acknowledged_by,
        "duration_seconds": seconds(end - incident.started_at),
        "seconds_to_detect": seconds(incident.seconds_to_detect),
        "seconds_to_act": seconds(incident.seconds_to_act),
        "seconds_to_repair": seconds(incident.seconds_to_repair),
        "run": None if run is None else running(parts, run, incident),
    }


def incident(parts: Parts, incident_id: int) -> Shape | None:
    """One incident with `labels`, `annotations`, `timeline` and `runs`; None if there is none with this id."""
    found = parts.desk.get(incident_id)
    if found is None:
        return None
    story = parts.desk.incidents.story(incident_id)
    return {
        "now": moment(parts.clock.now()),
        **incident_summary(parts, found),
        "labels": dict(found.labels),
        "annotations": dict(found.annotations),
        "timeline": [_line(entry, found.started_at) for entry in story],
        "runs": [run_shape(run, parts.runs.effects_of(run.id)) for run in parts.runs.of_incident(incident_id)],
    }


def _line(entry: TimelineEntry, began: float) -> Shape:
    return {
        "at": moment(entry.at),
        "offset_seconds": seconds(entry.at - began),
        "kind": entry.kind,
        "text": entry.text,
        "data": dict(entry.data),
    }


def current_rung(playbook: Playbook, run: Run) -> tuple[Rung, int] | None:
    """The rung that a run is at or comes to next, and the number of the attempt; None when the ladder is over."""
    move = next_move([RungLimit(rung.rung, rung.attempts) for rung in playbook.ladder], run.attempts)
    return (playbook.ladder[move.index], move.attempt) if isinstance(move, Try) else None


def running(parts: Parts, run: Run, of: Incident | None) -> Shape:
    """A run under way. `doing` is evidence, waiting, acting or verifying; `waits_for` the refusals it waits out."""
    playbook = parts.runner.playbooks.get(run.playbook)
    place = current_rung(playbook, run) if playbook is not None else None
    waiting = parts.runner.clearance.waiting(run.id)
    effects = parts.runs.effects_of(run.id) if waiting is None else ()
    open_effect = next((effect for effect in effects if effect.outcome is None), None)
    if waiting is not None:
        doing = "waiting"
    elif open_effect is not None:
        doing = f"acting: {open_effect.action}"
    elif of is not None and of.state is IncidentState.VERIFYING:
        doing = "verifying"
    else:
        doing = "looking"
    return {
        "id": run.id,
        "playbook": run.playbook,
        "trigger": run.trigger,
        "started_at": moment(run.started_at),
        "rung": place[0].rung if place else None,
        "attempt": place[1] if place else None,
        "doing": doing,
        "waits_for": [denial(d) for d in waiting.denials] if waiting else [],
        "until": moment(waiting.until) if waiting else None,
        "approval": approval(run),
    }


def run_shape(run: Run, effects: list[Effect]) -> Shape:
    """One run, under way or over, with its attempts and effects."""
    return {
        "id": run.id,
        "incident": run.incident_id,
        "playbook": run.playbook,
        "target": run.target,
        "trigger": run.trigger,
        "state": run.state,
        "started_at": moment(run.started_at),
        "ended_at": moment(run.ended_at),
        "approval": approval(run),
        "attempts": [{"rung": a.rung, "outcome": str(a.outcome), "note": a.note} for a in run.attempts],
        "effects": [
            {
                "key": e.key,
                "rung": e.rung,
                "attempt": e.attempt,
                "step": e.step,
                "action": e.action,
                "arguments": dict(e.arguments),
                "disruptive": e.disruptive,
                "intended_at": moment(e.intended_at),
                "ended_at": moment(e.ended_at),
                "outcome": None if e.outcome is None else str(e.outcome),
                "note": e.note,
            }
            for e in effects
        ],
    }


def approval(run: Run) -> Shape | None:
    """What a person was asked and said; None if nobody was asked. `granted` None: no answer yet."""
    asked = run.approval
    if asked is None:
        return None
    return {
        "asked_at": moment(asked.asked_at),
        "until": moment(asked.until),
        "granted": asked.granted,
        "by": asked.by,
    }


def rules(parts: Parts) -> Shape:
    """`{"now", "rules": [...]}` in the order of evaluation. `last_error` is empty for a rule that works."""
    found = [
        {
            "group": rule.group,
            "name": rule.name,
            "kind": rule.kind,
            "expr": rule.expr,
            "file": rule.file,
            "line": rule.line,
            "state": rule.state,
            "alerts": rule.alerts,
            "last_at": moment(rule.last_at),
            "last_error": rule.last_error,
        }
        for rule in parts.pipeline.engine.rules()
    ]
    return {"now": moment(parts.clock.now()), "rules": found}


def playbooks(parts: Parts) -> Shape:
    """`{"now", "playbooks": [{name, description, autonomy, targets, rungs}]}` by name."""
    found = [
        {
            "name": playbook.name,
            "description": playbook.description,
            "autonomy": playbook.autonomy,
            "targets": list(playbook.targets),
            "rungs": [rung.rung for rung in playbook.ladder],
        }
        for _, playbook in sorted(parts.runner.playbooks.items())
    ]
    return {"now": moment(parts.clock.now()), "playbooks": found}


def playbook(parts: Parts, name: str) -> Shape:
    """One playbook as it is in force. KeyError for an unknown name."""
    found = parts.runner.playbooks[name]
    budget = found.budget if found.budget is not None else parts.runner.guards.limits.budget
    return {
        "now": moment(parts.clock.now()),
        "name": found.name,
        "description": found.description,
        "answers": [", ".join(str(matcher) for matcher in matchers) for matchers in found.answers],
        "triggers": [trigger.model_dump(mode="json", exclude_none=True) for trigger in found.triggers],
        "targets": list(found.targets),
        "autonomy": found.autonomy,
        "approval_expires_seconds": found.approval_expires,
        "mitigates": found.mitigates,
        "last_resort": found.last_resort,
        "at_bay": found.at_bay,
        "budget": [window(one) for one in budget],
        "own_budget": found.budget is not None,
        "wait_at_most_seconds": found.wait_at_most,
        "evidence": list(found.evidence),
        "ladder": [_rung(rung) for rung in found.ladder],
        "needs_person": [{"when": need.when, "text": need.text} for need in found.needs_person],
    }


def window(limit: Window) -> Shape:
    """One window of a budget."""
    return {"window_seconds": limit.seconds, "allowed": limit.count}


def _rung(rung: Rung) -> Shape:
    return {
        "rung": rung.rung,
        "description": rung.description,
        "when": rung.when,
        "attempts": rung.attempts,
        "autonomy": rung.autonomy,
        "steps": [step.model_dump(mode="json") for step in rung.steps],
        "roll_back": [step.model_dump(mode="json") for step in rung.roll_back],
        "verify": verification(rung),
    }


def verification(rung: Rung) -> Shape:
    """What must hold after a rung."""
    return {
        "expr": rung.verify.expr,
        "settle_seconds": rung.verify.settle,
        "hold_seconds": rung.verify.hold,
        "within_seconds": rung.verify.within,
    }


def query(parts: Parts, expression: str) -> Shape:
    """`{"now", "expr", "type", "result"}`: type vector (`[{labels, value}]`), scalar or string. Raises QueryError."""
    now = parts.clock.now()
    value = parts.pipeline.engine.query(expression, now)
    head: Shape = {"now": moment(now), "expr": expression}
    if isinstance(value, str):
        return {**head, "type": "string", "result": value}
    if isinstance(value, float):
        return {**head, "type": "scalar", "result": number(value)}
    elements = [{"labels": dict(labels), "value": number(one)} for labels, one in value]
    return {**head, "type": "vector", "result": elements}
