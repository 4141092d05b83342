"""Every guard between a wish to act and the act. Pure: facts in, decision out, each refusal typed and with its end.

Defaults follow what the field settled on: backoff of Kubernetes (10 s doubled up to 5 min, reset after 10 min of
health), budgets over several windows at once, one action at a time on a target, a pause that is a list of reasons.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from watchdog.core.targets import Target, parse_target


class Reason(StrEnum):
    """Why an act is refused."""

    PAUSED = "paused"
    OBSERVE_ONLY = "observe_only"
    STATE_UNREADABLE = "state_unreadable"
    BOOT_GRACE = "boot_grace"
    START_GRACE = "start_grace"
    BUSY = "busy"
    PARENT_BUSY = "parent_busy"
    REMOTE_FAULT = "remote_fault"
    STOPPED_ON_PURPOSE = "stopped_on_purpose"
    BACKOFF = "backoff"
    BUDGET = "budget"
    HOST_BUDGET = "host_budget"


FINAL = frozenset({Reason.OBSERVE_ONLY, Reason.STATE_UNREADABLE, Reason.BUDGET, Reason.HOST_BUDGET})
"""Refusals that a run does not wait out: a person is told instead."""


@dataclass(frozen=True, slots=True)
class Denial:
    """One refusal. `until` is when it ends by itself; None when only a person or a change of the world ends it."""

    reason: Reason
    text: str
    until: float | None = None

    @property
    def final(self) -> bool:
        """Whether a run gives up rather than waits."""
        return self.reason in FINAL


@dataclass(frozen=True, slots=True)
class Decision:
    """Allowed if nothing was refused; otherwise every refusal, so that `explain` can show them all."""

    denials: tuple[Denial, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether the act may happen now."""
        return not self.denials

    @property
    def final(self) -> Denial | None:
        """The first refusal that is not worth waiting for."""
        return next((d for d in self.denials if d.final), None)

    @property
    def until(self) -> float | None:
        """When to ask again: the last end among the refusals; None if some refusal has no end of its own."""
        ends = [d.until for d in self.denials]
        return None if None in ends or not ends else max(end for end in ends if end is not None)


@dataclass(frozen=True, slots=True)
class Window:
    """At most `count` disruptive effects in any `seconds`."""

    seconds: float
    count: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers of the guards. A playbook may tighten its own budget windows."""

    budget: tuple[Window, ...] = (Window(3600, 3), Window(86400, 6))
    host_budget: tuple[Window, ...] = (Window(3600, 10),)
    gentle_factor: int = 4
    """Effects that disturb nobody (collect garbage, evict expired entries) have this many times the budget."""
    backoff_initial: float = 10.0
    backoff_max: float = 300.0
    backoff_jitter: float = 0.1
    health_resets_after: float = 600.0
    boot_grace: float = 10.0
    start_grace: float = 0.0
    """How long after an effect the same target is left alone; verification normally covers it."""


@dataclass(frozen=True, slots=True)
class PastEffect:
    """One effect that was intended and not proven undone."""

    playbook: str
    target: str
    at: float
    disruptive: bool


@dataclass(frozen=True, slots=True)
class Trouble:
    """One incident of a target: unhealthy from `opened_at` to `resolved_at` (None: still)."""

    opened_at: float
    resolved_at: float | None


@dataclass(frozen=True, slots=True)
class Pause:
    """One reason why nothing may act; the pause ends when the list is empty."""

    reason: str
    by: str
    since: float
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What a run would like to do now. `by_person` lifts boot grace, backoff and budgets, nothing else."""

    playbook: str
    target: Target
    disruptive: bool
    service: str = ""
    """The service that would be disturbed; empty if none."""
    autonomy: str = "auto"
    by_person: bool = False
    run_id: int = 0
    effects: int = 1
    """How many effects of its kind (disruptive or gentle) it comes to; budgets must have room for all of them."""
    begun: bool = False
    """The rest of a rung under way: it was allowed and paid for, so it asks only for what may have changed since."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the guards know of the world. `effects` and `troubles` reach back at least 24 h."""

    started_at: float
    readable: bool = True
    pauses: tuple[Pause, ...] = ()
    effects: tuple[PastEffect, ...] = ()
    troubles: Mapping[str, tuple[Trouble, ...]] | None = None
    running: Mapping[str, int] | None = None
    """Targets on which a run is under way, with the run's id."""
    stopped_on_purpose: frozenset[str] = frozenset()
    """Services that a person stopped."""
    only_remote_faults: bool = False
    """Every firing alert that could explain the wish is about a remote target."""


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
    last = max((e.at for e in _of_target(scene.wish, scene.facts)), default=None)
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


def backoff_chain(wish: Wish, facts: Facts, limits: Limits, now: float) -> list[float]:
    """Times of the disruptive effects on the target since it was last healthy for `health_resets_after`. Health that
    is dated in the future has not been seen yet and resets nothing."""
    troubles = sorted((facts.troubles or {}).get(str(wish.target), ()), key=lambda t: t.opened_at)
    start = 0.0
    for index, trouble in enumerate(troubles):
        end = trouble.resolved_at
        following = min(troubles[index + 1].opened_at, now) if index + 1 < len(troubles) else now
        if end is not None and following - end >= limits.health_resets_after:
            start = end
    return sorted(e.at for e in _of_target(wish, facts) if e.disruptive and e.at > start)


def backoff_delay(target: str, count: int, limits: Limits) -> float:
    """Seconds to wait after the `count`-th effect in a chain. The jitter is fixed by target and count: a replay waits
    as long, and it only ever lengthens, so that the backoff never shrinks."""
    base = min(limits.backoff_initial * 2.0 ** min(count - 1, 30), limits.backoff_max)
    digest = hashlib.blake2b(f"{target}\x00{count}".encode(), digest_size=2).digest()
    stretch = 1 + limits.backoff_jitter * int.from_bytes(digest, "big") / 0xFFFF
    return float(min(base * stretch, limits.backoff_max))


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


def _of_target(wish: Wish, facts: Facts) -> list[PastEffect]:
    return [e for e in facts.effects if e.target == str(wish.target)]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"
