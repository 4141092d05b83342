"""An agent made of the pure core alone: it asks, acts and remembers as the real one does, one byte at a time.

It keeps two books: what the guards are told, and a ledger of what was really done, by which the laws are judged.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

from watchdog.core.incidents import (
    TRANSITIONS,
    Incident,
    IncidentEvent,
    alert_fired,
    alert_resolved,
    open_incident,
    transition,
)
from watchdog.core.ladder import Attempt, Exhausted, Finished, RungLimit, RungOutcome, next_move
from watchdog.core.model import Alert, AlertState, IncidentState, labels_of
from watchdog.core.observer import SelfCheck, Storm
from watchdog.core.permission import (
    Approval,
    Decision,
    Denial,
    Facts,
    Limits,
    PastEffect,
    Pause,
    Reason,
    Window,
    Wish,
)
from watchdog.core.policy import decide
from watchdog.core.silences import Maintenance
from watchdog.core.steadiness import Steadiness, Trouble
from watchdog.core.targets import Target, parse_target

LIMITS = Limits(
    budget=(Window(60, 2), Window(900, 5)),
    host_budget=(Window(120, 5),),
    gentle_factor=1,
    backoff_initial=16,
    backoff_max=64,
    health_resets_after=80,
    boot_grace=5,
    steadiness=Steadiness(slot=1),
)
"""Small numbers, so that a short history reaches every limit; whole seconds, so that sums of times are exact."""
TARGETS = tuple(parse_target(t) for t in ("service:web", "worker:web/0", "worker:web/1", "service:db", "provider:ai"))
NEEDS = {"web": "service:db"}
"""What a service cannot be well without."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a rung does: so many effects of one kind."""

    rung: str
    disruptive: bool
    effects: int = 1
    attempts: int = 1
    asks: bool = False


LADDER = (
    Step("soothe", disruptive=False),
    Step("restart", disruptive=True, attempts=2),
    Step("rebuild", disruptive=True, effects=2),
    Step("raze", disruptive=True, asks=True),
)
RUNGS = tuple(RungLimit(step.rung, step.attempts) for step in LADDER)


@dataclass(slots=True)
class Work:
    """A run under way."""

    id: int
    target: Target
    by_person: bool
    attempts: tuple[Attempt, ...] = ()
    done: int = 0
    """Effects of the attempt under way."""
    approval: Approval | None = None


@dataclass(frozen=True, slots=True)
class Act:
    """One line of the ledger: an effect that really happened, with what was true then."""

    at: float
    work: Work
    step: Step
    first: bool
    """The first of its rung's attempt; the others were allowed and paid for with it."""

    @property
    def target(self) -> Target:
        """What it touched."""
        return self.work.target

    @property
    def disruptive(self) -> bool:
        """Whether users could notice it."""
        return self.step.disruptive


@dataclass(slots=True)
class Agent:
    """All state; `facts()` is what the guards see of it."""

    now: float = 1000.0
    started_at: float = 0.0
    firing: dict[Target, Alert] = field(default_factory=dict)
    incidents: dict[int, Incident] = field(default_factory=dict)
    current: dict[Target, int] = field(default_factory=dict)
    """By target: its last incident."""
    base: dict[int, Incident] = field(default_factory=dict)
    log: list[tuple[int, IncidentEvent | Alert | str, float, str]] = field(default_factory=list)
    """What happened to which incident since `base`: an event, an alert that fires, the print of one that ended."""
    work: dict[Target, Work] = field(default_factory=dict)
    past: tuple[PastEffect, ...] = ()
    ledger: list[Act] = field(default_factory=list)
    pauses: tuple[Pause, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    busy_until: float = 0.0
    """Until when systemd is at work on `web`."""
    stopped: bool = False
    """Whether a person stopped `web`."""
    storm: Storm | None = None
    faults: tuple[str, ...] = ()
    """What the agent found of itself."""
    readable: bool = True
    runs: int = 0

    # --- what happens ---------------------------------------------------------------------------------------------

    def fire(self, target: Target, *, symptom: bool) -> None:
        """An alert of the target begins to fire."""
        if target in self.firing:
            return
        alert = ill(target, symptom=symptom)
        self.firing[target] = alert
        incident = self.open(target)
        if incident is None:
            made = replace(open_incident(str(target), alert, self.now), id=len(self.incidents) + 1)
            self.incidents[made.id] = made
            self.current[target] = made.id
            self.log.append((made.id, alert, self.now, str(target)))
        else:
            self.incidents[incident.id] = alert_fired(incident, alert, self.now)
            self.log.append((incident.id, alert, self.now, ""))

    def clear(self, target: Target) -> None:
        """Nothing of the target fires any more."""
        alert = self.firing.pop(target, None)
        incident = self.open(target)
        if alert is None or incident is None:
            return
        self.incidents[incident.id] = alert_resolved(incident, alert.fingerprint)
        self.log.append((incident.id, alert.fingerprint, self.now, ""))
        self._settle(target)

    def restart(self, step: float) -> None:
        """The agent ends and begins anew, after the machine's clock was set by `step` seconds."""
        self.now = max(900.0, self.now + step)
        self.started_at = self.now
        self.past = tuple(replace(e, at=min(e.at, self.now)) for e in self.past)
        self.ledger = [replace(act, at=min(act.at, self.now)) for act in self.ledger]
        for key, incident in self.incidents.items():
            ended = None if incident.resolved_at is None else min(incident.resolved_at, self.now)
            opened = min(incident.opened_at, self.now)
            self.incidents[key] = replace(incident, opened_at=opened, resolved_at=ended)
        self.base, self.log = dict(self.incidents), []

    def begin(self, target: Target, *, by_person: bool) -> None:
        """A run for the target, unless one is under way."""
        if target in self.work:
            return
        incident = self.open(target)
        if incident is not None and (incident.state, IncidentEvent.RUN_STARTED) not in TRANSITIONS:
            return
        if incident is None and not by_person:
            return
        self.runs += 1
        self.work[target] = Work(self.runs, target, by_person)
        self._move(target, IncidentEvent.RUN_STARTED)

    def answer(self, target: Target, *, granted: bool) -> None:
        """A person's word on a run that asked for it and still waits."""
        work = self.work.get(target)
        asked = work.approval if work is not None else None
        if work is not None and asked is not None and asked.granted is None and self.now < asked.until:
            work.approval = replace(asked, granted=granted, by="ann")

    def turn(self, target: Target, *, helps: bool) -> Act | None:
        """The run of this target takes one step: an effect, the end of an attempt, or its own end. The effect, if it
        took one. Whether it `helps` shows at the end of the attempt."""
        work = self.work.get(target)
        if work is None:
            return None
        move = next_move(RUNGS, work.attempts)
        if isinstance(move, Finished):
            self._end(work, IncidentEvent.RUN_ENDED if target in self.firing else None)
            return None
        if isinstance(move, Exhausted):
            self._end(work, IncidentEvent.ESCALATED)
            return None
        step = LADDER[move.index]
        if work.done == step.effects:
            self._move(target, IncidentEvent.ACTED)
            if helps:
                self.clear(target)
            self._attempted(work, step, RungOutcome.FAILED if target in self.firing else RungOutcome.VERIFIED)
            return None
        decision = self.ask(self.wish(work, step))
        if decision.allowed:
            return self._perform(work, step)
        if decision.final is not None:
            self._attempted(work, step, RungOutcome.REFUSED)
        elif {d.reason for d in decision.denials} == {Reason.APPROVAL} and work.approval is None:
            work.approval = Approval(self.now, self.now + 30)
        return None

    # --- what the guards see --------------------------------------------------------------------------------------

    def ask(self, wish: Wish) -> Decision:
        """What the guards say to it."""
        return decide(wish, self.facts(wish), LIMITS, self.now)

    def wish(self, work: Work, step: Step) -> Wish:
        """The rung as the guards see it."""
        return Wish(
            "restore",
            work.target,
            step.disruptive,
            service=work.target.labels.get("service", "web"),
            autonomy="approve" if step.asks else "auto",
            by_person=work.by_person,
            run_id=work.id,
            effects=step.effects,
            approval=work.approval,
            begun=work.done > 0,
        )

    def facts(self, wish: Wish) -> Facts:
        """As the store and the desk would give them."""
        promised = [
            PastEffect("restore", str(work.target), self.now, step.disruptive)
            for work in self.work.values()
            if work.id != wish.run_id and work.done
            for step in (self.step_of(work),)
            for _ in range(step.effects - work.done)
        ]
        return Facts(
            started_at=self.started_at,
            readable=self.readable,
            pauses=self.pauses,
            effects=(*self.past, *promised),
            troubles=self.troubles(),
            running={str(work.target): work.id for work in self.work.values() if work.done},
            stopped_on_purpose=frozenset({"web"} if self.stopped else ()),
            only_remote_faults=self.only_remote(wish.target),
            maintenance=self.maintenance,
            storm=self.raging(),
            check=SelfCheck(self.now, self.faults),
            ailing={NEEDS[wish.service]: "ill"} if self.ails(NEEDS.get(wish.service, "")) else None,
            supervised={"web": Denial(Reason.SUPERVISOR_BUSY, "systemd restarts it", self.busy_until)},
        )

    def raging(self) -> Storm | None:
        """The storm that is not over yet."""
        return self.storm if self.storm is not None and self.now < self.storm.until else None

    def troubles(self) -> dict[str, tuple[Trouble, ...]]:
        """By target: when it was ill."""
        found: dict[str, tuple[Trouble, ...]] = {}
        for incident in self.incidents.values():
            trouble = Trouble(incident.opened_at, incident.resolved_at)
            found[incident.key] = (*found.get(incident.key, ()), trouble)
        return found

    def only_remote(self, target: Target) -> bool:
        """The target shows only symptoms, and something remote is ill."""
        alert = self.firing.get(target)
        return alert is not None and "symptom" in alert.label and any(t.remote for t in self.firing)

    def ails(self, name: str) -> bool:
        """Whether the target of this name is ill."""
        return any(str(target) == name for target in self.firing)

    def step_of(self, work: Work) -> Step:
        """The rung that a run which has begun one is at."""
        move = next_move(RUNGS, work.attempts)
        assert not isinstance(move, Finished | Exhausted)
        return LADDER[move.index]

    def open(self, target: Target) -> Incident | None:
        """The target's incident."""
        incident = self.incidents.get(self.current.get(target, 0))
        return None if incident is None or incident.resolved_at is not None else incident

    def replayed(self) -> dict[int, Incident]:
        """All incidents once more, from what the agent began with and the log alone."""
        found = dict(self.base)
        for number, event, at, reason in self.log:
            match event:
                case Alert() if number not in found:
                    found[number] = replace(open_incident(reason, event, at), id=number)
                case Alert():
                    found[number] = alert_fired(found[number], event, at)
                case IncidentEvent():
                    found[number] = transition(found[number], event, at, reason)
                case _:
                    found[number] = alert_resolved(found[number], event)
        return found

    def _perform(self, work: Work, step: Step) -> Act:
        act = Act(self.now, work, step, work.done == 0)
        self.ledger.append(act)
        self.past = (*self.past, PastEffect("restore", str(work.target), self.now, step.disruptive))
        work.done += 1
        return act

    def _attempted(self, work: Work, step: Step, outcome: RungOutcome) -> None:
        work.attempts = (*work.attempts, Attempt(step.rung, outcome))
        work.done = 0
        if outcome is RungOutcome.FAILED:
            self._move(work.target, IncidentEvent.RUNG_FAILED)

    def _end(self, work: Work, event: IncidentEvent | None) -> None:
        del self.work[work.target]
        if event is not None:
            self._move(work.target, event, "the ladder is over")
        self._settle(work.target)

    def _settle(self, target: Target) -> None:
        if target not in self.firing and target not in self.work:
            self._move(target, IncidentEvent.RECOVERED)

    def _move(self, target: Target, event: IncidentEvent, reason: str = "") -> None:
        incident = self.open(target)
        if incident is not None and (incident.state, event) in TRANSITIONS:
            self.incidents[incident.id] = transition(incident, event, self.now, reason)
            self.log.append((incident.id, event, self.now, reason))


@cache
def ill(target: Target, *, symptom: bool) -> Alert:
    """An alert that says that the target is ill, or only shows what may come from elsewhere."""
    labels = labels_of(alertname="Ill", severity="critical", target=str(target), symptom="true" if symptom else "")
    return Alert("rules/Ill", labels, (), AlertState.FIRING, 1.0, 1.0)


def lost(agent: Agent) -> list[str]:
    """Targets that are ill and of which no incident under way knows, and incidents that should be over or are not."""
    found = [str(target) for target in agent.firing if (i := agent.open(target)) is None or not i.firing]
    for target in agent.current:
        incident = agent.open(target)
        if incident is not None and not incident.firing and target not in agent.work:
            found.append(f"incident {incident.id} is {incident.state}")
    return found + [
        f"incident {incident.id} is {incident.state}"
        for incident in agent.incidents.values()
        if (incident.state is IncidentState.RESOLVED) is (incident.resolved_at is None)
    ]
