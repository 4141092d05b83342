"""What the guards talk about: wishes, facts, limits, and decisions with typed reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from watchdog.core.observer import STORM_LIMITS, SelfCheck, Storm, StormLimits
from watchdog.core.silences import Maintenance
from watchdog.core.steadiness import STEADINESS, Steadiness, Trouble
from watchdog.core.targets import Target


class Reason(StrEnum):
    """Why an act is refused."""

    PAUSED = "paused"
    OBSERVE_ONLY = "observe_only"
    STATE_UNREADABLE = "state_unreadable"
    BOOT_GRACE = "boot_grace"
    START_GRACE = "start_grace"
    MAINTENANCE = "maintenance"
    STORM = "storm"
    OBSERVER = "observer"
    DEPENDENCY = "dependency"
    SUPERVISOR_BUSY = "supervisor_busy"
    FLAPPING = "flapping"
    APPROVAL = "approval"
    DENIED = "denied"
    BUSY = "busy"
    PARENT_BUSY = "parent_busy"
    REMOTE_FAULT = "remote_fault"
    STOPPED_ON_PURPOSE = "stopped_on_purpose"
    BACKOFF = "backoff"
    BUDGET = "budget"
    HOST_BUDGET = "host_budget"


BUDGETS = frozenset({Reason.BUDGET, Reason.HOST_BUDGET})
FINAL = frozenset({Reason.OBSERVE_ONLY, Reason.DENIED, Reason.STATE_UNREADABLE, Reason.BUDGET, Reason.HOST_BUDGET})
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
    steadiness: Steadiness = STEADINESS
    storm: StormLimits = STORM_LIMITS
    start_grace: float = 0.0
    """How long after an effect the same target is left alone; verification normally covers it."""


@dataclass(frozen=True, slots=True)
class PastEffect:
    """One effect that was intended and not proven undone."""

    playbook: str
    target: str
    at: float
    disruptive: bool
    by_person: bool = False
    """A person wanted it: it counts on its target, and takes nothing of the host's budget for what is done alone."""


@dataclass(frozen=True, slots=True)
class Pause:
    """One reason why nothing may act; the pause ends when the list is empty."""

    reason: str
    by: str
    since: float
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """A question to a person. `granted` None: not answered yet; unanswered at `until` it counts as refused."""

    asked_at: float
    until: float
    granted: bool | None = None
    by: str = ""
    rung: str = ""
    """The rung that was shown to them: a yes is for that one alone."""


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
    approval: Approval | None = None
    """What a person said to this run, where its playbook's autonomy is `approve`."""
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
    disturbed: Mapping[int, str] | None = None
    """By run: the service that it disturbs now, whatever its target is."""
    stopped_on_purpose: frozenset[str] = frozenset()
    """Services that a person stopped."""
    only_remote_faults: bool = False
    """Every firing alert that could explain the wish is about a remote target."""
    maintenance: tuple[Maintenance, ...] = ()
    storm: Storm | None = None
    check: SelfCheck | None = None
    """What the agent last found of itself; it looks when a storm begins."""
    ailing: Mapping[str, str] | None = None
    """Targets that this one depends on and that are in trouble, each with a word about it."""
    supervised: Mapping[str, Denial] | None = None
    """By service: what its own supervisor (systemd) is doing about it, so that nobody fights `Restart=`."""
