"""Every guard between a wish to act and the act. Pure: facts in, decision out, each refusal typed and with its end.

Defaults follow what the field settled on: backoff of Kubernetes (10 s doubled up to 5 min, reset after 10 min of
health), budgets over several windows at once, one action at a time on a target, a pause that is a list of reasons.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from watchdog.core.backoff import backoff_chain, backoff_delay, effects_on_target
from watchdog.core.permission import Decision, Denial, Facts, Limits, Reason, Wish
from watchdog.core.targets import parse_target


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
    guards = _ALWAYS if wish.begun else (*_ALWAYS, _autonomy, _grace, _backoff, _budgets)
    return Decision(tuple(denial for guard in guards for denial in guard(_Scene(wish, facts, limits, now))))


def _paused(scene: _Scene) -> Iterable[Denial]:
    for pause in scene.facts.pauses:
        if pause.until is None or pause.until > scene.now:
            yield Denial(Reason.PAUSED, f"paused by {pause.by}: {pause.reason}", pause.until)


def _autonomy(scene: _Scene) -> Iterable[Denial]:
    if scene.wish.autonomy != "auto" and not scene.wish.by_person:
        yield Denial(Reason.OBSERVE_ONLY, f"the playbook's autonomy is {scene.wish.autonomy}: it plans and tells, only")


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
    alike = [e for e in scene.facts.effects if e.disruptive == scene.wish.disruptive]
    mine = [e for e in alike if e.target == str(scene.wish.target) and e.playbook == scene.wish.playbook]
    for name, reason, windows, effects in (
        (f"{scene.wish.playbook} on {scene.wish.target}", Reason.BUDGET, scene.limits.budget, mine),
        ("this host", Reason.HOST_BUDGET, scene.limits.host_budget, alike),
    ):
        for window in windows:
            allowed = window.count * factor
            recent = sorted(e.at for e in effects if e.at > scene.now - window.seconds)
            over = len(recent) + scene.wish.effects - allowed
            if over > 0:
                wanted = f", {scene.wish.effects} more are wanted" if scene.wish.effects > 1 else ""
                text = f"the budget of {name} is spent: {len(recent)} of {allowed} in {_hours(window.seconds)}{wanted}"
                yield Denial(reason, text, recent[over - 1] + window.seconds if over <= len(recent) else None)


_ALWAYS = (_paused, _one_at_a_time, _remote, _on_purpose)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"
