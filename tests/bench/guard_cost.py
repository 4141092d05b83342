"""What one decision of the guards costs in line: idle, after many effects, and in a storm; the store is a real file."""

from __future__ import annotations

import gc
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.bench.figures import Aim, Figure
from watchdog.clock import FakeClock
from watchdog.core.model import Alert, AlertChange, AlertEvent, AlertState, Outcome, labels_of
from watchdog.core.observer import SelfCheck
from watchdog.core.permission import Facts as FactsOfGuards
from watchdog.core.permission import Limits, Wish
from watchdog.core.policy import decide
from watchdog.core.targets import Target, parse_target
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.guards import Guards
from watchdog.playbooks.schema import Playbook, Rung
from watchdog.playbooks.surroundings import Surroundings
from watchdog.store.database import Database
from watchdog.store.facts import Facts
from watchdog.store.runs import Runs

_AIM_US = 50.0
_EFFECTS = 26
_STORM = 500
_SERVICE = "web"
_TARGET = f"service:{_SERVICE}"
_PLAYBOOK = Playbook(
    name="restore-service", targets=("service",), answers=('alertname="Down"',), ladder=(Rung(rung="restart"),)
)


class _Scene:
    """Guards over a store in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self._alerts: dict[str, Alert] = {}
        self.database = Database(directory / "proxywatch.db")
        self._desk = Desk(self.database, self.clock, self._alerts.get, lambda _: None, lambda _: None)
        self.runs = Runs(self.database)
        known = [Target("service", (f"service-{number}",)) for number in range(20)]
        surroundings = Surroundings(
            desk=self._desk,
            facts=Facts(self.database),
            clock=self.clock,
            kill_switch=directory / "pause",
            known=lambda: known,
            depends_on=lambda _: ("provider:primary", "host"),
            look=self._look,
        )
        self._guards = Guards(
            desk=self._desk,
            runs=self.runs,
            surroundings=surroundings,
            clock=self.clock,
            limits=Limits(),
            stopped_on_purpose=frozenset,
        )
        self.incident = self.fire(_TARGET)
        self.clock.advance(60.0)

    async def _look(self) -> SelfCheck:
        return SelfCheck(self.clock.now())

    def fire(self, target: str) -> int:
        """One alert about a target; its incident."""
        now = self.clock.now()
        labels = labels_of(alertname="Down", severity="critical", target=target)
        one = Alert("Down", labels, labels_of(summary=f"{target} is down"), AlertState.FIRING, 1.0, now, now, now)
        self._alerts[one.fingerprint] = one
        return self._desk.take([AlertEvent(AlertChange.FIRING, one, now)])[0].id

    def act(self, target: str) -> None:
        """One effect and its end, some minutes before the next."""
        run = self.runs.begin(
            incident_id=None, playbook=_PLAYBOOK.name, target=target, trigger="alert", labels={}, now=self.clock.now()
        )
        effect = self.runs.intend(
            run,
            rung="restart",
            attempt=1,
            step=0,
            action="restart_service",
            arguments={},
            survey={},
            disruptive=True,
            now=self.clock.now(),
        )
        self.runs.conclude(effect, Outcome.DONE, "", self.clock.now())
        self.runs.end(run, "verified", self.clock.now())
        self.clock.advance(600.0)

    def microseconds(self, asks: int) -> float:
        """Median CPU time of one decision: what it would take where nothing else runs."""
        wish = Wish(playbook=_PLAYBOOK.name, target=parse_target(_TARGET), disruptive=True, service=_SERVICE)
        times = []
        gc.collect()
        for _ in range(asks):
            began = time.thread_time_ns()
            self._guards.ask(wish, _PLAYBOOK, self.incident)
            times.append(time.thread_time_ns() - began)
        return median(times) / 1000

    def alone(self, asks: int) -> float:
        """Median CPU time of the pure decision, with the facts at hand."""
        wish = Wish(playbook=_PLAYBOOK.name, target=parse_target(_TARGET), disruptive=True, service=_SERVICE)
        effects = self.runs.past_effects(self.clock.now() - 86_400.0)
        troubles = {_TARGET: self._desk.incidents.troubles_of(_TARGET, 0.0)}
        facts = FactsOfGuards(started_at=0.0, effects=effects, troubles=troubles, running={}, disturbed={})
        limits, now = Limits(), self.clock.now()
        times = []
        gc.collect()
        for _ in range(asks):
            began = time.thread_time_ns()
            decide(wish, facts, limits, now)
            times.append(time.thread_time_ns() - began)
        return median(times) / 1000


def measure(quick: bool) -> Iterator[Figure]:
    """All rows of this part."""
    logging.getLogger("proxywatch.incident").setLevel(logging.ERROR)
    asks = 2_000 if quick else 20_000
    aim = Aim(_AIM_US, "figure")
    part = "One decision of the guards"
    with tempfile.TemporaryDirectory(prefix="proxywatch-bench-") as directory:
        scene = _Scene(Path(directory))
        try:
            yield Figure(part, "nothing was ever done", scene.microseconds(asks), "µs", aim=aim)
            for number in range(_EFFECTS):
                scene.act(_TARGET if number % 4 == 0 else f"service:service-{number % 20}")
            what = f"{_EFFECTS} effects in the last hours"
            yield Figure(part, what, scene.microseconds(asks), "µs", aim=aim)
            yield Figure(part, "the decision alone, over those facts", scene.alone(asks), "µs", aim=aim)
            with scene.database.transaction():
                for number in range(_STORM):
                    scene.fire(f"probe:probe-{number}")
            yield Figure(part, f"and {_STORM} targets fell ill just now", scene.microseconds(asks), "µs", aim=aim)
        finally:
            scene.database.close()
