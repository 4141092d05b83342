"""Why something was done, why it was not, and when it will be: the reasons behind every unresolved incident."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from watchdog.api.parts import Parts
from watchdog.api.people_words import people_words
from watchdog.api.plan import decision, imagined_run, steps
from watchdog.api.shapes import denial, moment, seconds
from watchdog.api.views import current_rung, incident_summary, running
from watchdog.core.backoff import backoff_chain, backoff_delay
from watchdog.core.incidents import Incident, severity_rank
from watchdog.core.ladder import Attempt, RungOutcome
from watchdog.core.model import IncidentState
from watchdog.core.past_effects import since
from watchdog.core.permission import Decision, Facts, Window, Wish
from watchdog.core.targets import Target, is_stranger, parse_target
from watchdog.playbooks.guards import DAY_SECONDS
from watchdog.playbooks.schema import Playbook, Rung
from watchdog.store.runs import Run
from watchdog.units import format_duration

Shape = dict[str, Any]

_AUTONOMY = {
    "observe": "Its autonomy is observe: it only tells, and never acts by itself; a person can run it.",
    "dry_run": "Its autonomy is dry_run: it tells what it would do, and never acts by itself; a person can run it.",
    "approve": "Its autonomy is approve: it asks a person before it acts.",
}
MOST_SUBJECTS = 12
"""Nobody reads the reasons of hundreds, and while they were gathered nobody else would be answered."""
_BEFORE_ACTING = frozenset({"waiting", "looking"})


def explain(parts: Parts, target: str | None = None, incident_id: int | None = None) -> Shape:
    """`{"now", "paused", "subjects": [...], "left_out"}`: one subject for the target or incident asked for, else one
    for each unresolved incident, the most severe and oldest first, and how many were too many. A subject: target,
    incident, playbook, why, done, now {run, rung, doing, steps} of the run
    under way, next {rung, steps, allowed, denials} of the rung that would act then, budgets, backoff, remote,
    sentences (the same in words). Raises ValueError for a bad target, KeyError for an
    unknown incident.
    """
    left_out = 0
    if incident_id is not None:
        found = parts.desk.get(incident_id)
        if found is None:
            raise KeyError(incident_id)
        subjects = [_subject(parts, found.key, found)]
    elif target is not None:
        key = str(parse_target(target))
        subjects = [_subject(parts, key, parts.desk.on(key))]
    else:
        worst = sorted(parts.desk.unresolved, key=lambda one: (-severity_rank(one.severity), one.id))
        left_out = max(0, len(worst) - MOST_SUBJECTS)
        subjects = [_subject(parts, one.key, one) for one in worst[:MOST_SUBJECTS]]
    now = parts.clock.now()
    paused = [
        f"{p.by}: {p.reason}" + (f" (ends in {format_duration(p.until - now)})" if p.until else "")
        for p in parts.surroundings.pauses(now)
    ]
    return {"now": moment(now), "paused": paused, "subjects": subjects, "left_out": left_out}


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
        "now": None,
        "next": None,
        "budgets": [],
        "backoff": None,
    }
    sentences = [*_situation(parts, incident), *people_words(parts, target, incident), why]
    if target.remote:
        sentences.append(
            f"No local process is touched for {key}: it stands outside this host, and restarting something here "
            "cannot repair it. What can be done is to move traffic, and the proxy does that by itself as well."
        )
    resolved = incident is not None and incident.state is IncidentState.RESOLVED
    if playbook is not None and not resolved:
        run = _run(parts, playbook, key, incident)
        shape["now"] = _now(parts, playbook, run, incident)
        rung = _acting(playbook, run, shape["now"])
        if rung is not None:
            answer = decision(parts, playbook, run, rung)
            wish = parts.runner.clearance.wish(run, playbook, rung)
            shape["next"] = _next(parts, run, rung, answer)
            shape["budgets"] = _budgets(parts, playbook, wish)
            shape["backoff"] = _backoff(parts, wish)
        sentences += _prospect(playbook, incident, shape, parts)
    shape["sentences"] = [sentence for sentence in sentences if sentence]
    return shape


def _answering(parts: Parts, target: Target, incident: Incident | None) -> tuple[Playbook | None, str]:
    """The playbook that answers, and in a sentence why this one or why none."""
    kind = target.kind
    able = [p for _, p in sorted(parts.runner.playbooks.items()) if kind in p.targets and not p.last_resort]
    names = ", ".join(p.name for p in able) or "none"
    if incident is None:
        if not able:
            return None, f"No playbook can repair a target of kind {kind}: a person would be told at once."
        return able[0], f"Playbooks that can repair a target of kind {kind}: {names}."
    fired = ", ".join(incident.alertnames)
    run = parts.runs.get(parts.runner.run_of(incident.id) or 0)
    resort = parts.runner.playbooks.get(run.playbook) if run else parts.triage.last_resort_for(incident)
    if resort is not None and resort.last_resort:
        return resort, f"Playbook {resort.name} is the last resort for {fired}: the ladder before it was exhausted."
    playbook = parts.triage.playbook_for(incident)
    if playbook is not None:
        return playbook, f"Playbook {playbook.name} answers: it is meant for {fired} on a target of kind {kind}."
    if not able:
        return None, f"No playbook answers: none can repair a target of kind {kind}, so a person is told."
    return None, f"No playbook answers {fired}: those for a target of kind {kind} ({names}) name other alerts."


def _run(parts: Parts, playbook: Playbook, key: str, incident: Incident | None) -> Run:
    """The run under way, else one as it would begin now."""
    run_id = parts.runner.run_of(incident.id) if incident else None
    run = parts.runs.get(run_id) if run_id is not None else None
    return run or imagined_run(parts, playbook, key, incident, "alert")


def _now(parts: Parts, playbook: Playbook, run: Run, incident: Incident | None) -> Shape | None:
    """Where the run under way stands; None if there is none."""
    place = current_rung(playbook, run)
    if not run.id or place is None:
        return None
    doing = running(parts, run, incident)["doing"]
    return {"run": run.id, "rung": place[0].rung, "doing": doing, "steps": steps(parts, run, place[0].steps)}


def _acting(playbook: Playbook, run: Run, now: Shape | None) -> Rung | None:
    """The next rung that would change something, if what is being watched now does not hold; None: a person is next."""
    place = current_rung(playbook, run)
    if now is not None and place is not None and now["doing"] not in _BEFORE_ACTING:
        failed = Attempt(place[0].rung, RungOutcome.FAILED)
        place = current_rung(playbook, replace(run, attempts=(*run.attempts, failed)))
    if place is None:
        return None
    later = playbook.ladder[playbook.ladder.index(place[0]) :]
    return next((rung for rung in later if rung.steps), None)


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
        "rung": rung.rung,
        "steps": steps(parts, run, rung.steps),
        "allowed": answer.allowed,
        "final": answer.final is not None,
        "denials": [denial(d) for d in answer.denials],
        "until": moment(answer.until),
    }


def _budgets(parts: Parts, playbook: Playbook, wish: Wish) -> list[Shape]:
    """What is used and left in each window, as the guards count it: effects of the same gravity as the next rung's."""
    limits = parts.runner.guards.limits
    now = parts.clock.now()
    factor = 1 if wish.disruptive else limits.gentle_factor
    target, strangers = str(wish.target), is_stranger(str(wish.target))
    past = parts.runs.past_effects(now - parts.runner.guards.reach([playbook]))
    mine = past.of(wish.playbook, target, disruptive=wish.disruptive)
    alike = past.everywhere(strangers=strangers, disruptive=wish.disruptive)
    own = limits.budget if playbook.budget is None else playbook.budget
    spent = [_spent(f"{playbook.name} on {target}", w, factor, mine, now) for w in own]
    scope = "all callers" if strangers else "this host"
    spent += [_spent(scope, w, factor, alike, now) for w in limits.host_budget]
    return [{**one, "disruptive": wish.disruptive} for one in spent]


def _spent(scope: str, window: Window, factor: int, effects: Sequence[float], now: float) -> Shape:
    allowed = window.count * factor
    times = since(effects, now - window.seconds)
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
        troubles={str(wish.target): parts.desk.incidents.troubles_of(str(wish.target), now - DAY_SECONDS)},
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
        case IncidentState.SUPPRESSED:
            return [head, f"It began {ago} ago and is suppressed: {incident.reason}."]
        case IncidentState.VERIFYING:
            waits = incident.reason or "what was done is being watched until it has held long enough"
            return [head, f"It began {ago} ago; {waits}."]
        case _:
            return [head, f"It began {ago} ago; {len(incident.firing)} alert(s) still fire."]


def _prospect(playbook: Playbook, incident: Incident | None, shape: Shape, parts: Parts) -> list[str]:
    """What is being done, what would come next, and what stands in its way until when."""
    told = [] if playbook.autonomy == "auto" else [_AUTONOMY[playbook.autonomy]]
    now, following = shape["now"], shape["next"]
    asking = next((rung.rung for rung in playbook.ladder if rung.autonomy and following), None)
    if asking is not None:
        told.append(f"Its rung {asking} asks a person before it acts.")
    if now is not None:
        told.append(f"Run {now['run']} is {now['doing']} at rung {now['rung']}: {_words(now['steps'])}.")
    elif incident is not None and incident.state is IncidentState.VERIFYING:
        told.append("No run is under way; another one begins as soon as what was reached no longer holds.")
    first = playbook.ladder[0]
    if now is None and not first.steps:
        told.append(f"A run would begin with rung {first.rung}: {_words([])}.")
    if following is None:
        return [*told, "No rung that acts is left: if it does not recover, a person is told."]
    if now is None or now["rung"] != following["rung"] or now["doing"] not in _BEFORE_ACTING:
        condition = "If that does not help, r" if now is not None or not first.steps else "R"
        told.append(f"{condition}ung {following['rung']} would act: {_words(following['steps'])}.")
    again = _tried_again_in(parts, playbook, incident) if now is None else None
    if again is not None:
        told.append(f"It was given up not long ago: it is tried again in {format_duration(again)} at the earliest.")
    elif following["allowed"]:
        told.append("The guards allow that now.")
    told += [f"Refused for now: {d['text']}; that ends {_when(parts, d['until'])}." for d in following["denials"]]
    if following["final"]:
        told.append("That is not waited for: a person is told instead.")
    return [*told, *(_budget_words(parts, budget) for budget in shape["budgets"]), *_backoff_words(parts, shape)]


def _tried_again_in(parts: Parts, playbook: Playbook, incident: Incident | None) -> float | None:
    """In how many seconds triage asks the guards again about an incident that was given to a person; None: it does
    now, because the last run ended long enough ago, or this playbook has not been tried."""
    if incident is None or incident.state is not IncidentState.ESCALATED:
        return None
    last = parts.runs.last_of_incident(incident.id)
    if last is None or last.ended_at is None or playbook.name not in parts.runs.tries(incident.id):
        return None
    left = last.ended_at + parts.runner.guards.limits.backoff_max - parts.clock.now()
    return left if left > 0 else None


def _words(described: list[Shape]) -> str:
    return "; ".join(step["does"] for step in described) or "only watch whether it recovers by itself"


def _backoff_words(parts: Parts, shape: Shape) -> list[str]:
    backoff = shape["backoff"]
    if not backoff["effects"]:
        return []
    healthy = format_duration(backoff["resets_after_healthy_seconds"])
    wait = f"the delay is over {_when(parts, backoff['until'])}" if backoff["until"] else "no delay is running"
    count = f"{backoff['effects']} disruptive effect(s) since it was last well for {healthy}"
    return [f"Backoff: {count}; {wait}."]


def _budget_words(parts: Parts, budget: Shape) -> str:
    hours = format_duration(budget["window_seconds"])
    gravity = "disruptive" if budget["disruptive"] else "gentle"
    words = f"Budget of {budget['scope']}: {budget['used']} of {budget['allowed']} {gravity} effects used in {hours}"
    return words + (f"; one is free {_when(parts, budget['frees_at'])}." if budget["frees_at"] else ".")


def _when(parts: Parts, until: Shape | None) -> str:
    if until is None:
        return "when the cause ends or a person decides"
    return f"in {format_duration(max(0.0, until['epoch'] - parts.clock.now()))}"


def _ago(parts: Parts, at: float | None) -> str:
    return format_duration(parts.clock.now() - (at or parts.clock.now()))
