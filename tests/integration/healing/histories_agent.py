"""One life of an agent over the imagined machine: the real desk, triage, guards, runner and store, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from healing_world import World, playbook
from histories_machine import NEEDS, ImaginedProxy, ImaginedService, Machine
from mortal import Killed, MortalDatabase
from virtual_time import AgentClock

from watchdog.actions import ActionContext
from watchdog.core.model import AlertChange, AlertEvent
from watchdog.core.observer import StormLimits
from watchdog.core.permission import Limits, Window
from watchdog.core.steadiness import Steadiness
from watchdog.core.targets import parse_target
from watchdog.errors import StoreError
from watchdog.intake import Intake
from watchdog.playbooks.schema import Playbook
from watchdog.store.alerts import Alerts
from watchdog.store.database import Database
from watchdog.store.future import bring_back, dated_by
from watchdog.store.outbox import Outbox

SYNC_SECONDS = 8.0
LIMITS = Limits(
    budget=(Window(300, 3), Window(3000, 6)),
    host_budget=(Window(300, 5),),
    gentle_factor=2,
    backoff_initial=10,
    backoff_max=60,
    health_resets_after=120,
    boot_grace=3,
    steadiness=Steadiness(slot=5, chronic_well=600),
    storm=StormLimits(least_targets=4, share=0.5, within=20, cooldown=20),
)
"""Smaller than in earnest, so that half an hour of the machine's time meets all of them."""

_QUICK = {"hold": "2s", "within": "12s"}
_COLLECT = {"kind": "collect_garbage", "timeout": "10s"}
_RECYCLE = {"kind": "recycle_worker", "timeout": "15s", "retries": 1, "retry_pause": "1s"}
_RESTART = {"kind": "restart_service", "timeout": "15s"}
_CIRCUIT = {"kind": "open_circuit", "timeout": "10s"}
_PATIENCE = {"wait_at_most": "40s", "approval_expires": "30s"}

PLAYBOOKS = {
    made.name: made
    for made in (
        playbook(
            {"rung": "soothe", "steps": [_COLLECT], "verify": _QUICK},
            {"rung": "recycle", "steps": [_RECYCLE], "verify": {"hold": "4s", "within": "15s"}, "attempts": 2},
            {"rung": "both", "steps": [{**_COLLECT, "on_failure": "continue"}, {**_RECYCLE, "mode": "kill"}]},
            name="restore-worker",
            answers=['alertname=~"Down|Worse"'],
            targets=["worker"],
            **_PATIENCE,
        ),
        playbook(
            {"rung": "restart", "steps": [{**_RESTART, "retries": 2}], "verify": _QUICK},
            {"rung": "twice", "steps": [_RESTART, _RESTART], "roll_back": [_COLLECT, _RESTART], "verify": _QUICK},
            {"rung": "asked", "steps": [{**_RESTART, "on_failure": "stop"}], "autonomy": "approve", "verify": _QUICK},
            name="restore-service",
            answers=['alertname="Down"', 'alertname="Slow"'],
            targets=["service"],
            budget={"5m": 3, "1h": 4},
            **_PATIENCE,
        ),
        playbook(
            {"rung": "again", "steps": [_RESTART, _RESTART], "verify": _QUICK},
            name="resort",
            answers=['alertname="Down"'],
            targets=["service"],
            last_resort=True,
            autonomy="approve",
            **_PATIENCE,
        ),
        playbook(
            {"rung": "open", "steps": [_CIRCUIT], "attempts": 2, "verify": {"expr": "served", **_QUICK}},
            name="failover",
            targets=["provider"],
            mitigates=True,
            at_bay="served",
            needs_person=[{"when": "key_dead", "text": "A new key is needed."}],
            **_PATIENCE,
        ),
        playbook(
            {"rung": "restart", "steps": [_RESTART], "verify": _QUICK},
            name="nightly",
            answers=[],
            triggers=[{"kind": "schedule", "every": "1h", "targets": ["service:db"]}],
            targets=["service"],
            **_PATIENCE,
        ),
        playbook(
            {"rung": "restart", "steps": [_RESTART], "verify": _QUICK},
            name="watch-host",
            targets=["host"],
            autonomy="observe",
            **_PATIENCE,
        ),
    )
}


class Agent(World):
    """From a start to a stop or a death."""

    database: MortalDatabase

    def __init__(
        self,
        machine: Machine,
        playbooks: Iterable[Playbook] = PLAYBOOKS.values(),
        limits: Limits = LIMITS,
        sync_seconds: float = SYNC_SECONDS,
    ) -> None:
        self.machine = machine
        self._sync_seconds = sync_seconds
        clock = AgentClock(machine.time)
        machine.clock = clock

        def opened(path: Path) -> Database:
            database = MortalDatabase(machine.fate, path)
            bring_back(database, Outbox(database, clock), clock.now())
            return database

        super().__init__(machine.directory, *playbooks, limits=limits, database=opened, clock=clock)
        self.firing = machine.alerts
        self.depends_on = {name: tuple(needs) for name, needs in NEEDS.items()}
        self._ready = False
        self.intake = Intake(self.desk, self.triage, self.bell.turns, trouble=self._trouble, ready=lambda: self._ready)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def dead(self) -> bool:
        """Whether it was killed."""
        return self.database.dead

    async def start(self) -> None:
        """As the daemon does."""
        now = self.clock.now()
        self.machine.tell = self.take
        with self._trouble():
            known = [dated_by(one, now) for one in Alerts(self.database).all()]
            gone = [AlertEvent(AlertChange.RESOLVED, a, now) for a in known if a.fingerprint not in self.firing]
            self.intake.take(gone)
        for work in (self.intake.run(), self._keep_in_step()):
            self._tasks.append(asyncio.create_task(work, name="agent"))
        await self.runner.resume()
        self._ready = True
        self.bell.ring()

    def take(self, events: Iterable[AlertEvent]) -> None:
        """The rules changed their mind."""
        if self.dead:
            return
        with contextlib.suppress(Killed):
            with self._trouble():
                self.intake.take(events)
            self.bell.ring()

    async def end(self) -> None:
        """The last breath: as a stop in good order if it lives, and as `kill -9` if it does not."""
        self.machine.tell = None
        await self.runner.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.machine.touching.clear()
        self.machine.fate.close()

    def holds(self, truth: str) -> bool:
        return truth in self.machine.truths

    def make(self, truth: str) -> None:
        self.machine.truths.add(truth)
        self.bell.ring()

    def unmake(self, truth: str) -> None:
        self.machine.truths.discard(truth)
        self.bell.ring()

    async def _keep_in_step(self) -> None:
        while True:
            await asyncio.sleep(self._sync_seconds)
            with self._trouble():
                await self.surroundings.watch(self.guards.limits.storm)
                self.desk.sync(self.firing.values())
                self.intake.consider(self.desk.unresolved)

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        with contextlib.suppress(StoreError):
            yield

    def _context(self, target: str, labels: Mapping[str, str]) -> ActionContext:
        about = parse_target(target)
        known = {"service": "web", **labels}
        services = {name: ImaginedService(self.machine, name, about) for name in ("web", "db")}
        proxies = {name: ImaginedProxy(self.machine, about) for name in ("web", "db")}
        return ActionContext(about, known, services, proxies, self.clock, self.directory)
