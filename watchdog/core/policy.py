"""Every guard between a wish to act and the act. Pure: facts in, decision out, each refusal typed and with its end.

Defaults follow what the field settled on: backoff of Kubernetes (10 s doubled up to 5 min, reset after 10 min of
health), budgets over several windows at once, one action at a time on a target, a pause that is a list of reasons.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from watchdog.core.backoff import backoff_chain, backoff_delay, effects_on_target
from watchdog.core.past_effects import indexed, since
from watchdog.core.permission import Decision, Denial, Facts, Limits, Reason, Wish
from watchdog.core.silences import maintaining
from watchdog.core.steadiness import flapping_until
from watchdog.core.targets import is_stranger, parse_target


@dataclass(frozen=True, slots=True)
class _Scene:
    wish: Wish
    facts: Facts
    limits: Limits
    now: float


def decide(wish: Wish, facts: Facts, limits: Limits, now: float) -> Decision:
    """All guards over one wish. Facts dated in the future (the clock went back) count as of now: never as absent."""
    if not facts.readable:
        text = "the agent's own state cannot be read, so nothing is known to be safe"
        return Decision((Denial(Reason.STATE_UNREADABLE, text),))
    scene = _Scene(wish, facts, limits, now)
    guards = _ALWAYS if wish.begun else _ALL
    return Decision(tuple(denial for guard in guards for denial in guard(scene)))


def _paused(scene: _Scene) -> Iterable[Denial]:
    for pause in scene.facts.pauses:
        if pause.until is None or pause.until > scene.now:
            yield Denial(Reason.PAUSED, f"paused by {pause.by}: {pause.reason}", pause.until)


def _autonomy(scene: _Scene) -> Iterable[Denial]:
    wish, approval = scene.wish, scene.wish.approval
    if wish.by_person or wish.autonomy == "auto":
        return
    if wish.autonomy != "approve":
        yield Denial(Reason.OBSERVE_ONLY, f"the playbook's autonomy is {wish.autonomy}: it plans and tells, only")
    elif approval is None:
        yield Denial(Reason.APPROVAL, "a person has to approve it and has not been asked yet")
    elif approval.granted is None and scene.now < approval.until:
        yield Denial(Reason.APPROVAL, "waiting for a person's approval", approval.until)
    elif approval.granted is None:
        yield Denial(Reason.DENIED, "nobody approved it in time")
    elif not approval.granted:
        yield Denial(Reason.DENIED, f"{approval.by} denied it")


def _maintained(scene: _Scene) -> Iterable[Denial]:
    window = maintaining(scene.facts.maintenance, scene.wish.target, scene.now)
    if window is not None and not scene.wish.by_person:
        text = f"{scene.wish.target} is under maintenance by {window.by}: {window.comment or 'no reason given'}"
        yield Denial(Reason.MAINTENANCE, text, window.until)


def _observer(scene: _Scene) -> Iterable[Denial]:
    """In a storm the observer is looked at first; even a trusted one then repairs one thing after the other."""
    storm, check = scene.facts.storm, scene.facts.check
    if storm is None or scene.wish.by_person:
        return
    if check is None or (not check.trusted and scene.wish.disruptive):
        why = "the agent looks at itself first" if check is None else f"the agent doubts itself: {check.faults[0]}"
        yield Denial(Reason.OBSERVER, f"{storm.text}; {why}", storm.until)
    others = sorted(run for run in (scene.facts.running or {}).values() if run != scene.wish.run_id)
    if others and not scene.wish.begun:
        yield Denial(Reason.STORM, f"{storm.text}; one repair at a time until it is over, and run {others[0]} is on")


def _dependencies(scene: _Scene) -> Iterable[Denial]:
    if scene.wish.disruptive and not scene.wish.by_person:
        for target, trouble in (scene.facts.ailing or {}).items():
            yield Denial(Reason.DEPENDENCY, f"{scene.wish.target} depends on {target}, which is in trouble: {trouble}")


def _supervised(scene: _Scene) -> Iterable[Denial]:
    """Two supervisors that repair the same thing at once undo each other's work."""
    denial = (scene.facts.supervised or {}).get(scene.wish.service)
    if denial is not None and scene.wish.disruptive and (denial.until is None or scene.now < denial.until):
        yield denial


def _flapping(scene: _Scene) -> Iterable[Denial]:
    if not scene.wish.disruptive or scene.wish.by_person:
        return
    troubles = (scene.facts.troubles or {}).get(str(scene.wish.target), ())
    until = flapping_until(troubles, scene.now, scene.limits.steadiness)
    if until is not None:
        text = f"{scene.wish.target} falls ill and gets well again and again; another disturbance would not calm it"
        yield Denial(Reason.FLAPPING, text, until)


def _grace(scene: _Scene) -> Iterable[Denial]:
    boot = scene.facts.started_at + scene.limits.boot_grace
    if scene.now < boot and not scene.wish.by_person:
        yield Denial(Reason.BOOT_GRACE, "proxywatch has only just started and is still looking around", boot)
    last = max((e.at for e in effects_on_target(scene.wish, scene.facts)), default=None)
    if last is not None and scene.now < min(last, scene.now) + scene.limits.start_grace:
        text = "the last repair of this target is still taking hold"
        yield Denial(Reason.START_GRACE, text, last + scene.limits.start_grace)


def _one_at_a_time(scene: _Scene) -> Iterable[Denial]:
    running = scene.facts.running or {}
    for target, run in running.items():
        if run == scene.wish.run_id:
            continue
        if target == str(scene.wish.target):
            yield Denial(Reason.BUSY, f"run {run} is already at work on {target}")
        elif target == str(scene.wish.target.parent):
            yield Denial(Reason.PARENT_BUSY, f"run {run} is at work on {target}, which contains {scene.wish.target}")
        elif parse_target(target).parent == scene.wish.target:
            yield Denial(Reason.BUSY, f"run {run} is at work on {target}, a part of {scene.wish.target}")
        elif _shares_service(scene, run, target):
            text = (
                f"run {run} is at work on {target} and disturbs {scene.wish.service}, which this would disturb as well"
            )
            yield Denial(Reason.BUSY, text)


def _shares_service(scene: _Scene, run: int, target: str) -> bool:
    """Whether both disturb the same service by different ends, as the host's memory and the service itself. Two workers
    of one service are repaired side by side: each is a target of its own."""
    wish = scene.wish
    if not (wish.disruptive and wish.service and (scene.facts.disturbed or {}).get(run) == wish.service):
        return False
    return not wish.target.kind == parse_target(target).kind == "worker"


def _remote(scene: _Scene) -> Iterable[Denial]:
    if scene.wish.disruptive and scene.wish.service and (scene.facts.only_remote_faults or scene.wish.target.remote):
        text = f"the fault is remote: restarting anything of {scene.wish.service} on this host could not help"
        yield Denial(Reason.REMOTE_FAULT, text)


def _on_purpose(scene: _Scene) -> Iterable[Denial]:
    if scene.wish.service in scene.facts.stopped_on_purpose and not scene.wish.by_person:
        yield Denial(
            Reason.STOPPED_ON_PURPOSE, f"{scene.wish.service} was stopped by a person; starting it is theirs to do"
        )


def _backoff(scene: _Scene) -> Iterable[Denial]:
    if not scene.wish.disruptive or scene.wish.by_person:
        return
    times = backoff_chain(scene.wish, scene.facts, scene.limits, scene.now)
    if not times:
        return
    delay = backoff_delay(str(scene.wish.target), len(times), scene.limits)
    if scene.now < times[-1] + delay:
        text = f"backing off {delay:.0f} s after disruptive effect {len(times)} without sustained health since"
        yield Denial(Reason.BACKOFF, text, times[-1] + delay)


def _budgets(scene: _Scene) -> Iterable[Denial]:
    if scene.wish.by_person:
        return
    factor = 1 if scene.wish.disruptive else scene.limits.gentle_factor
    past, disruptive = indexed(scene.facts.effects), scene.wish.disruptive
    target, playbook = str(scene.wish.target), scene.wish.playbook
    mine = past.of(playbook, target, disruptive=disruptive)
    strangers = is_stranger(target)
    all_of_them = past.everywhere(strangers=strangers, disruptive=disruptive)
    for name, reason, windows, times in (
        (f"{playbook} on {target}", Reason.BUDGET, scene.limits.budget, mine),
        ("all callers" if strangers else "this host", Reason.HOST_BUDGET, scene.limits.host_budget, all_of_them),
    ):
        for window in windows:
            allowed = window.count * factor
            recent = since(times, scene.now - window.seconds)
            over = len(recent) + scene.wish.effects - allowed
            if over > 0:
                wanted = f", {scene.wish.effects} more are wanted" if scene.wish.effects > 1 else ""
                text = f"the budget of {name} is spent: {len(recent)} of {allowed} in {_hours(window.seconds)}{wanted}"
                yield Denial(reason, text, recent[over - 1] + window.seconds if over <= len(recent) else None)


_ALWAYS = (_paused, _maintained, _observer, _one_at_a_time, _remote, _on_purpose, _supervised)
_FIRST = (_autonomy, _dependencies, _grace, _flapping, _backoff, _budgets)
"""Asked before a rung begins, and not in the middle of it."""
_ALL = (*_ALWAYS, *_FIRST)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"
