"""A small world to heal: truths are files, effects are lines of a file, and a poll stands for the probes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from watchdog.actions import ActionContext
from watchdog.clock import Clock, SystemClock
from watchdog.core.incidents import Incident
from watchdog.core.model import Alert, AlertState, labels_of
from watchdog.core.observer import SelfCheck
from watchdog.core.permission import Denial, Limits, Window
from watchdog.core.routing import Notice
from watchdog.core.targets import parse_target
from watchdog.playbooks.bell import Bell
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.evidence import Evidence
from watchdog.playbooks.guards import Guards
from watchdog.playbooks.runner import Runner
from watchdog.playbooks.schema import Playbook, playbook_model
from watchdog.playbooks.surroundings import Surroundings
from watchdog.playbooks.triage import Triage
from watchdog.playbooks.verification import Verifier
from watchdog.store.database import Database
from watchdog.store.facts import Facts
from watchdog.store.runs import Run, Runs

GENEROUS = (Window(3600, 1000),)
LIMITS = Limits(budget=GENEROUS, host_budget=GENEROUS, backoff_initial=0.01, boot_grace=0.0)
"""Nothing but locks, pauses and a backoff that only orders things."""
QUICK = {"hold": "20ms", "within": "80ms"}

SCRIPT = """#!/bin/sh
# effect.sh NAME [TRUTH]: one visible effect, and what becomes true by it.
cd "${0%/*}" || exit 9
echo "$1" >> effects
if [ -n "$2" ]; then : > "truths/$2"; fi
"""


def alert(target: str = "service:web", name: str = "Down", **more: str) -> Alert:
    """A firing alert about a target."""
    labels = labels_of(more, alertname=name, severity="critical", target=target)
    return Alert(f"test/{name}", labels, labels_of(summary=f"{name} at {target}"), AlertState.FIRING, 1.0, 1.0, 1.0)


class World:
    """Store, desk and runner put together as the daemon does, over one directory."""

    def __init__(
        self,
        directory: Path,
        *playbooks: Playbook,
        limits: Limits = LIMITS,
        database: Callable[[Path], Database] = Database,
        stopped: frozenset[str] = frozenset(),
        clock: Clock | None = None,
    ) -> None:
        self.directory = directory
        self.depends_on: dict[str, tuple[str, ...]] = {}
        self.faults: tuple[str, ...] = ()
        self.supervised: dict[str, Denial] = {}
        (directory / "truths").mkdir(exist_ok=True)
        self.script = directory / "effect.sh"
        self.script.write_text(SCRIPT)
        self.clock: Clock = clock or SystemClock()
        self.bell = Bell()
        self.firing: dict[str, Alert] = {}
        self.acknowledged: list[int] = []
        self.database = database(directory / "proxywatch.db")
        self.database.execute("CREATE TABLE IF NOT EXISTS told (key TEXT PRIMARY KEY, kind TEXT, reason TEXT)")
        self.desk = Desk(self.database, self.clock, self._alert, self._announce, self.acknowledged.append)
        self.runs, self.facts = Runs(self.database), Facts(self.database)
        self.surroundings = Surroundings(
            desk=self.desk,
            facts=self.facts,
            clock=self.clock,
            kill_switch=directory / "pause",
            known=lambda: (),
            depends_on=lambda service: self.depends_on.get(service, ()),
            look=self._look,
        )
        self.guards = Guards(
            desk=self.desk,
            runs=self.runs,
            surroundings=self.surroundings,
            clock=self.clock,
            limits=limits,
            stopped_on_purpose=lambda: stopped,
            supervised=lambda: self.supervised,
        )
        verifier = Verifier(self.holds, self.desk, self.clock, self.bell)
        self.runner = Runner(
            desk=self.desk,
            runs=self.runs,
            guards=self.guards,
            verifier=verifier,
            evidence=Evidence(self.desk, self.runs, self._context),
            context=self._context,
            clock=self.clock,
            bell=self.bell,
        )
        self.runner.playbooks = {playbook.name: playbook for playbook in playbooks}
        self.triage = Triage(
            desk=self.desk,
            runs=self.runs,
            runner=self.runner,
            guards=self.guards,
            verifier=verifier,
            clock=self.clock,
        )

    async def close(self) -> None:
        """As a stop in good order: runs stay under way in the store."""
        await self.runner.stop()
        self.database.close()

    async def _look(self) -> SelfCheck:
        return SelfCheck(self.clock.now(), self.faults)

    # --- the world ------------------------------------------------------------------------------------------------

    def holds(self, truth: str) -> bool:
        """The query: a truth is a file."""
        return (self.directory / "truths" / truth).exists()

    def make(self, truth: str) -> None:
        """Something becomes true, and a measurement says so."""
        (self.directory / "truths" / truth).touch()
        self.bell.ring()

    def unmake(self, truth: str) -> None:
        """Something is true no longer, and a measurement says so."""
        (self.directory / "truths" / truth).unlink()
        self.bell.ring()

    @property
    def effects(self) -> list[str]:
        """Every effect that happened, in order."""
        file = self.directory / "effects"
        return file.read_text().split() if file.exists() else []

    # --- the agent ------------------------------------------------------------------------------------------------

    def fire(self, *alerts: Alert) -> Incident:
        """Alerts begin to fire; the incident of the last one."""
        for one in alerts:
            self.firing[one.fingerprint] = one
        return self.desk.sync(self.firing.values())[-1]

    def clear(self) -> None:
        """Nothing fires any more."""
        self.firing = {}
        self.desk.sync(())
        self.bell.ring()

    async def measure(self, well: str = "well") -> None:
        """Stands for probes and rules: whenever `well` is true, nothing fires any more."""
        while True:
            if self.holds(well) and self.firing:
                self.clear()
            await asyncio.sleep(0.005)

    def begin(self, incident: Incident | None, playbook: str = "restore", **more: Any) -> Run:
        """A run for an incident's target."""
        target = more.pop("target", incident.key if incident else "")
        return self.runner.begin(incident, self.runner.playbooks[playbook], target, **more)

    async def ended(self, run: Run) -> Run:
        """The run, when it is over."""
        await self.runner.finished(run.id)
        found = self.runs.get(run.id)
        assert found is not None
        return found

    async def heal(self, incident: Incident, playbook: str = "restore") -> Run:
        """One run to its end, with measurements going on."""
        measuring = asyncio.create_task(self.measure())
        try:
            return await self.ended(self.begin(incident, playbook))
        finally:
            measuring.cancel()

    def told(self, kind: str | None = None) -> list[tuple[str, str]]:
        """Notices as they were made durable: kind and reason, oldest first."""
        rows = self.database.query("SELECT kind, reason FROM told ORDER BY rowid")
        return [(row["kind"], row["reason"]) for row in rows if kind in (None, row["kind"])]

    def incident(self, incident: Incident) -> Incident:
        """As it is now, in the store."""
        found = self.desk.incidents.get(incident.id)
        assert found is not None
        return found

    def story(self, incident: Incident, kind: str) -> list[str]:
        """Lines of one kind."""
        return [entry.text for entry in self.desk.incidents.story(incident.id) if entry.kind == kind]

    def _alert(self, fingerprint: str) -> Alert | None:
        return self.firing.get(fingerprint)

    def _announce(self, notice: Notice) -> None:
        self.database.execute("INSERT INTO told VALUES (?, ?, ?)", (notice.key, notice.kind, notice.reason))

    def _context(self, target: str, labels: Mapping[str, str]) -> ActionContext:
        return ActionContext(parse_target(target), labels, {}, {}, self.clock, self.directory)

    # --- playbooks ------------------------------------------------------------------------------------------------

    def step(self, name: str, truth: str = "", **more: Any) -> dict[str, Any]:
        """A command whose effect is one line; `check` looks for it unless told otherwise."""
        return step(self.directory, name, truth, **more)


def step(directory: Path, name: str, truth: str = "", **more: Any) -> dict[str, Any]:
    """See World.step; before there is a world."""
    return {"kind": "command", "argv": ["sh", str(directory / "effect.sh"), name, truth], "timeout": "10s", **more}


def check(directory: Path, name: str) -> list[str]:
    """A program that says whether the effect happened."""
    return ["grep", "-qx", name, str(directory / "effects")]


def rung(name: str, *steps: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """One rung that verifies quickly."""
    return {"rung": name, "steps": list(steps), "verify": QUICK, **more}


def playbook(*ladder: Mapping[str, Any], name: str = "restore", **more: Any) -> Playbook:
    """A playbook as its file would give it."""
    body = {
        "name": name,
        "answers": ['alertname="Down"'],
        "targets": ["service", "worker", "provider"],
        "ladder": list(ladder),
        **more,
    }
    return playbook_model().model_validate(body)


async def until(condition: Callable[[], object], seconds: float = 45.0) -> None:
    """Waits for something that becomes true by itself."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
