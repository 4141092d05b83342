"""Gathers the facts that `core.policy` decides over: from the store, from the desk, from what was just measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from watchdog.clock import Clock
from watchdog.core.model import Outcome
from watchdog.core.past_effects import PastEffects
from watchdog.core.permission import Decision, Denial, Facts, Limits, PastEffect, Wish
from watchdog.core.policy import decide
from watchdog.core.targets import parse_target
from watchdog.errors import StoreError
from watchdog.playbooks.desk import SYMPTOM, Desk
from watchdog.playbooks.schema import Playbook
from watchdog.playbooks.surroundings import Surroundings
from watchdog.store.runs import Run, Runs

DAY_SECONDS = 86400.0


class Guards:
    """May this run act now? Holds the lock of every target on which a run acts."""

    def __init__(
        self,
        *,
        desk: Desk,
        runs: Runs,
        surroundings: Surroundings,
        clock: Clock,
        limits: Limits,
        stopped_on_purpose: Callable[[], frozenset[str]],
        supervised: Callable[[], Mapping[str, Denial]] = dict,
    ) -> None:
        """`supervised`: services that their own supervisor is busy with now, each with what it does."""
        self._desk = desk
        self._runs = runs
        self._surroundings = surroundings
        self._clock = clock
        self.limits = limits
        self._stopped_on_purpose = stopped_on_purpose
        self._supervised = supervised
        self._started_at = clock.now()
        self._acting: dict[str, int] = {}
        self._disturbed: dict[int, str] = {}
        self._promised: dict[int, tuple[Wish, float]] = {}

    @property
    def acting(self) -> Mapping[str, int]:
        """Targets that a run is acting on now, with the run's id."""
        return self._acting

    def ask(self, wish: Wish, playbook: Playbook, incident_id: int | None) -> Decision:
        """The decision of all guards. Whatever cannot be read counts as «not safe»."""
        limits = self.limits if playbook.budget is None else replace(self.limits, budget=playbook.budget)
        facts = self._gather(wish, incident_id, self.reach([playbook]))
        return decide(wish, facts, limits, self._clock.now())

    def needs(self, service: str) -> Iterable[str]:
        """The targets that a service cannot be well without."""
        return self._surroundings.depends_on(service)

    def reach(self, playbooks: Iterable[Playbook]) -> float:
        """How many seconds back the guards look at what was done; nothing younger may be forgotten."""
        windows = [*self.limits.budget, *self.limits.host_budget, *(w for p in playbooks for w in p.budget or ())]
        return max([DAY_SECONDS, *(window.seconds for window in windows)])

    def lock(self, run: Run, allowed: Wish | None = None) -> None:
        """From now on this run acts on its target. What it was `allowed` counts in budgets before it is all done."""
        self._acting[run.target] = run.id
        if allowed is not None and allowed.disruptive and allowed.service:
            self._disturbed[run.id] = allowed.service
        if allowed is not None and not allowed.begun:
            self._promised[run.id] = allowed, self._clock.now()

    def unlock(self, run: Run) -> None:
        """The run acts no longer; harmless if it did not."""
        self._promised.pop(run.id, None)
        self._disturbed.pop(run.id, None)
        if self._acting.get(run.target) == run.id:
            del self._acting[run.target]

    def _outstanding(self, run_id: int, now: float) -> Iterator[PastEffect]:
        """What other runs were allowed and have not begun yet."""
        for other, (wish, since) in self._promised.items():
            if other != run_id:
                tried = [e for e in self._runs.effects_of(other) if e.intended_at >= since]
                mine = [e for e in tried if e.outcome is not Outcome.NOT_DONE]
                left = wish.effects - sum(e.disruptive == wish.disruptive for e in mine)
                yield from [PastEffect(wish.playbook, str(wish.target), now, wish.disruptive, wish.by_person)] * left

    def _gather(self, wish: Wish, incident_id: int | None, reach: float) -> Facts:
        now = self._clock.now()
        around = self._surroundings
        try:
            storm = around.storm(self.limits.storm, now)
            past = self._runs.past_effects(now - reach)
            promised = tuple(self._outstanding(wish.run_id, now))
            return Facts(
                started_at=self._started_at,
                pauses=around.pauses(now),
                effects=PastEffects((*past, *promised)) if promised else past,
                troubles={str(wish.target): self._desk.incidents.troubles_of(str(wish.target), now - reach)},
                running=dict(self._acting),
                disturbed=dict(self._disturbed),
                stopped_on_purpose=self._stopped_on_purpose(),
                only_remote_faults=self._only_remote(incident_id, str(wish.target)),
                maintenance=around.maintenance(now),
                storm=storm,
                check=around.check(storm),
                ailing=around.ailing(wish.service) if wish.service else None,
                supervised=self._supervised(),
            )
        except StoreError:
            return Facts(started_at=self._started_at, readable=False)

    def _only_remote(self, incident_id: int | None, target: str) -> bool:
        """A provider is in trouble, and this incident, or the one that the target has by now, shows only symptoms that
        the provider explains."""
        incident = self._desk.get(incident_id) if incident_id is not None else self._desk.on(target)
        alerts = self._desk.alerts_of(incident) if incident is not None else []
        if not alerts or not all(SYMPTOM in alert.labels for alert in alerts):
            return False
        return any(parse_target(other.key).remote for other in self._desk.unresolved)
