"""Why something was done, why it was not, and when it will be: the reasons behind every unresolved incident."""

from __future__ import annotations

from typing import Any

from watchdog.api.parts import Parts
from watchdog.api.plan import decision, imagined_run, steps
from watchdog.api.shapes import denial, moment, seconds
from watchdog.api.views import current_rung, incident_summary
from watchdog.core.incidents import Incident
from watchdog.core.model import IncidentState
from watchdog.core.policy import Decision, Facts, PastEffect, Window, Wish, backoff_chain, backoff_delay
from watchdog.core.targets import Target, parse_target
from watchdog.playbooks.guards import DAY_SECONDS
from watchdog.playbooks.schema import Playbook, Rung
from watchdog.store.runs import Run
from watchdog.units import format_duration

Shape = dict[str, Any]


def explain(parts: Parts, target: str | None = None, incident_id: int | None = None) -> Shape:
    """`{"now", "paused", "subjects": [...]}`: one subject for the target or incident asked for, else one for each
    unresolved incident. A subject: target, incident, playbook, why, done, next {rung, steps, allowed, denials},
    budgets, backoff, remote, sentences (the same in words). Raises ValueError for a bad target, KeyError for an
    unknown incident.
    """
    if incident_id is not None:
        found = parts.desk.get(incident_id)
        if found is None:
            raise KeyError(incident_id)
        subjects = [_subject(parts, found.key, found)]
    elif target is not None:
        key = str(parse_target(target))
        subjects = [_subject(parts, key, next((i for i in parts.desk.unresolved if i.key == key), None))]
    else:
        subjects = [_subject(parts, incident.key, incident) for incident in parts.desk.unresolved]
    now = parts.clock.now()
    paused = [f"{p.by}: {p.reason}" for p in parts.facts.pauses(now)]
    return {"now": moment(now), "paused": paused, "subjects": subjects}


def _subject(parts: Parts, key: str, incident: Incident | None) -> Shape:
    target = parse_target(key)
    playbook, why = _answering(parts, target, incident)
    shape: Shape = {
        "target": key,
        "remote": target.remote,
        "incident": incident_summary(parts, incident) if incident else None,
        "playbook": playbook.name if playbook else None,
        "why": why,
        "done": _done(parts, incident),
        "next": None,
        "budgets": [],
        "backoff": None,
    }
    sentences = [*_situation(parts, incident), why]
    if target.remote:
        sentences.append(
            f"No local process is touched for {key}: it stands outside this host, and restarting something here "
            "cannot repair it. What can be done is to move traffic, and the proxy does that by itself as well."
        )
    resolved = incident is not None and incident.state is IncidentState.RESOLVED
    if playbook is not None and not resolved:
        run = _run(parts, playbook, key, incident)
        place = current_rung(playbook, run) if run.ended_at is None else None
        rung = place[0] if place else next((r for r in playbook.ladder if r.steps), playbook.ladder[0])
        answer = decision(parts, playbook, run, rung)
        wish = parts.runner.wish(run, playbook, rung)
        shape["next"] = _next(parts, run, rung, answer)
        shape["budgets"] = _budgets(parts, playbook, wish)
        shape["backoff"] = _backoff(parts, wish)
        sentences += _prospect(parts, playbook, incident, shape, answer)
    shape["sentences"] = [sentence for sentence in sentences if sentence]
    return shape


def _answering(parts: Parts, target: Target, incident: Incident | None) -> tuple[Playbook | None, str]:
    """The playbook that answers, and in a sentence why this one or why none."""
    kind = target.kind
    able = [p for _, p in sorted(parts.runner.playbooks.items()) if kind in p.targets]
    names = ", ".join(p.name for p in able) or "none"
    if incident is None:
        if not able:
            return None, f"No playbook can repair a target of kind {kind}: a person would be told at once."
        return able[0], f"Playbooks that can repair a target of kind {kind}: {names}."
    playbook = parts.runner.playbook_for(incident)
    fired = ", ".join(incident.alertnames)
    if playbook is not None:
        return playbook, f"Playbook {playbook.name} answers: it is meant for {fired} on a target of kind {kind}."
    if not able:
        return None, f"No playbook answers: none can repair a target of kind {kind}, so a person is told."
    return None, f"No playbook answers {fired}: those for a target of kind {kind} ({names}) name other alerts."


def _run(parts: Parts, playbook: Playbook, key: str, incident: Incident | None) -> Run:
    """The run under way, else the last one, else one as it would begin now."""
    runs = parts.runs.of_incident(incident.id) if incident else []
    return runs[-1] if runs else imagined_run(parts, playbook, key, incident, "alert")


def _done(parts: Parts, incident: Incident | None) -> list[Shape]:
    """Every effect so far, oldest first."""
    return [
        {
            "at": moment(effect.intended_at),
            "playbook": effect.playbook,
            "rung": effect.rung,
            "action": effect.action,
            "outcome": None if effect.outcome is None else str(effect.outcome),
            "note": effect.note,
        }
        for run in (parts.runs.of_incident(incident.id) if incident else ())
        for effect in parts.runs.effects_of(run.id)
    ]


def _next(parts: Parts, run: Run, rung: Rung, answer: Decision) -> Shape:
    return {
        "run": run.id if run.ended_at is None and run.id else None,
        "rung": rung.rung,
        "steps": steps(parts, run, rung),
        "allowed": answer.allowed,
        "denials": [denial(d) for d in answer.denials],
        "until": moment(answer.until),
    }


def _budgets(parts: Parts, playbook: Playbook, wish: Wish) -> list[Shape]:
    """What is used and left in each window, as the guards count it: effects of the same gravity as the next rung's."""
    limits = parts.runner.guards.limits
    now = parts.clock.now()
    factor = 1 if wish.disruptive else limits.gentle_factor
    alike = [e for e in parts.runs.past_effects(now - DAY_SECONDS) if e.disruptive == wish.disruptive]
    mine = [e for e in alike if (e.target, e.playbook) == (str(wish.target), wish.playbook)]
    own = limits.budget if playbook.budget is None else playbook.budget
    return [_spent(f"{playbook.name} on {wish.target}", w, factor, mine, now) for w in own] + [
        _spent("this host", w, factor, alike, now) for w in limits.host_budget
    ]


def _spent(scope: str, window: Window, factor: int, effects: list[PastEffect], now: float) -> Shape:
    allowed = window.count * factor
    times = sorted(e.at for e in effects if e.at > now - window.seconds)
    frees = times[-allowed] + window.seconds if allowed and len(times) >= allowed else None
    return {
        "scope": scope,
        "window_seconds": window.seconds,
        "used": len(times),
        "allowed": allowed,
        "left": max(0, allowed - len(times)),
        "frees_at": moment(frees),
    }


def _backoff(parts: Parts, wish: Wish) -> Shape:
    """`effects` disruptive ones since the target was last well for long; `until` None: no delay is running."""
    limits = parts.runner.guards.limits
    now = parts.clock.now()
    facts = Facts(
        started_at=parts.started_at,
        effects=parts.runs.past_effects(now - DAY_SECONDS),
        troubles=parts.desk.incidents.troubles(now - DAY_SECONDS),
    )
    times = backoff_chain(wish, facts, limits, now)
    delay = backoff_delay(str(wish.target), len(times), limits) if times else 0.0
    until = times[-1] + delay if times else 0.0
    return {
        "effects": len(times),
        "delay_seconds": seconds(delay),
        "until": moment(until) if until > now else None,
        "resets_after_healthy_seconds": limits.health_resets_after,
    }


def _situation(parts: Parts, incident: Incident | None) -> list[str]:
    """What the incident's state means."""
    if incident is None:
        return ["There is no unresolved incident on this target."]
    ago = format_duration(parts.clock.now() - incident.started_at)
    head = f"Incident {incident.id}: {incident.title}."
    match incident.state:
        case IncidentState.RESOLVED:
            how = "it was healed by a playbook" if incident.healed else "it ended without a repair of ours"
            return [head, f"It is resolved: {how}, {format_duration(incident.seconds_to_repair or 0)} after it began."]
        case IncidentState.ESCALATED:
            return [head, f"It was given to a person {_ago(parts, incident.escalated_at)} ago: {incident.reason}."]
        case IncidentState.VERIFYING:
            waits = incident.reason or "what was done is being watched until it has held long enough"
            return [head, f"It began {ago} ago; {waits}."]
        case _:
            return [head, f"It began {ago} ago; {len(incident.firing)} alert(s) still fire."]


def _prospect(parts: Parts, playbook: Playbook, incident: Incident | None, shape: Shape, answer: Decision) -> list[str]:
    """What comes next, and what stands in its way until when."""
    told = []
    if playbook.autonomy != "auto":
        told.append(f"Its autonomy is {playbook.autonomy}: it never acts by itself; a person can run it.")
    step = shape["next"]
    words = "; ".join(s["does"] for s in step["steps"]) or "only watch whether it recovers by itself"
    if incident is None:
        told.append(f"If it were needed now, {playbook.name} would begin with rung {step['rung']}: {words}.")
    elif step["run"] is not None:
        told.append(f"Run {step['run']} is at rung {step['rung']}: {words}.")
    else:
        told.append(f"The next run would use rung {step['rung']}: {words}.")
    if answer.allowed:
        told.append("The guards allow that now.")
    told += [f"Refused: {one.text}; {_when(parts, one.until)}." for one in answer.denials]
    if answer.final is not None:
        told.append("That is not waited for: a person is told instead.")
    told += [_budget_words(parts, budget) for budget in shape["budgets"]]
    backoff = shape["backoff"]
    if backoff["effects"]:
        healthy = format_duration(backoff["resets_after_healthy_seconds"])
        told.append(
            f"Backoff: {backoff['effects']} disruptive effect(s) since it was last well for {healthy}; "
            + (f"the next may follow {_when(parts, backoff['until']['epoch'])}." if backoff["until"] else "none due.")
        )
    return told


def _budget_words(parts: Parts, budget: Shape) -> str:
    hours = format_duration(budget["window_seconds"])
    words = f"Budget of {budget['scope']}: {budget['used']} of {budget['allowed']} used in {hours}"
    frees = budget["frees_at"]
    return words + (f", {_when(parts, frees['epoch'])}." if frees else ".")


def _when(parts: Parts, until: float | None) -> str:
    if until is None:
        return "it ends when the cause ends or a person decides"
    return f"free again in {format_duration(max(0.0, until - parts.clock.now()))}"


def _ago(parts: Parts, at: float | None) -> str:
    return format_duration(parts.clock.now() - (at or parts.clock.now()))
