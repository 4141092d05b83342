"""A machine whose parts fall ill and are repaired. It keeps a ledger of what was really done to it, and judges that."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from healing_world import alert
from mortal import Fate
from virtual_time import Time

from watchdog.clock import Clock
from watchdog.core.model import Alert, AlertChange, AlertEvent
from watchdog.core.silences import Maintenance
from watchdog.core.targets import Target, parse_target
from watchdog.errors import ActionError
from watchdog.system.process import ProcessIdentity
from watchdog.system.proxy_api import (
    AlreadyReplaced,
    GarbageCollected,
    MasterStatus,
    ProviderHealth,
    ProxyApi,
    Recycled,
    WorkerStatus,
)
from watchdog.system.services import ServiceStatus

TARGETS = tuple(
    parse_target(t) for t in ("service:web", "worker:web/0", "worker:web/1", "service:db", "provider:ai", "host")
)
WEB, _, _, DATABASE, PROVIDER, HOST = TARGETS
NEEDS = {"web": (str(DATABASE),)}


@dataclass(frozen=True, slots=True)
class Act:
    """One effect that really happened. `at` is the agent's time, as it would count it now."""

    at: float
    target: Target
    run: int
    playbook: str
    charged: bool
    """Whether it counts in budgets and backoff: it disturbs, and is no way back."""
    by_person: bool


class Machine:
    """Everything that outlives an agent."""

    def __init__(self, history: bytes, directory: Path) -> None:
        self.time = Time()
        self.fate = Fate(self.time)
        self.dice = random.Random(history)
        self.directory = directory
        self.alerts: dict[str, Alert] = {}
        self.truths = {"served"}
        self.pids: Counter[Target] = Counter()
        self.forced = False
        """Whether the provider's circuit is."""
        self.calm = False
        """The end is near: nothing gets worse any more."""
        self.busy_until = 0.0
        self.pauses: list[tuple[float, float | None]] = []
        """Begins and ends of those that nobody took back, in the agent's time; the kill switch is one of them."""
        self.maintenance: list[Maintenance] = []
        self.granted: set[int] = set()
        self.ledger: list[Act] = []
        self.touched: Counter[int] = Counter()
        """By effect: how often it was begun."""
        self.touching: dict[Target, int] = {}
        self.tell: Callable[[Iterable[AlertEvent]], None] | None = None
        """How an agent that lives hears of alerts."""
        self.judge: Callable[[Target, int, bool], Act] | None = None
        """Looks at an effect that begins."""
        self.clock: Clock | None = None
        self.books = sqlite3.connect(directory / "proxywatch.db", isolation_level=None)

    @property
    def switch(self) -> Path:
        """The kill switch."""
        return self.directory / "pause"

    # --- health ---------------------------------------------------------------------------------------------------

    def fire(self, target: Target, name: str, **labels: str) -> None:
        """An alert begins to fire."""
        made = alert(str(target), name, **labels)
        if made.fingerprint not in self.alerts:
            self.alerts[made.fingerprint] = made
            self._say(AlertChange.FIRING, made)

    def clear(self, target: Target) -> None:
        """What fires of the target and of its parts ends."""
        for one in list(self.alerts.values()):
            about = parse_target(one.label["target"])
            if target in (about, about.parent):
                del self.alerts[one.fingerprint]
                self._say(AlertChange.RESOLVED, one)

    def ill(self, target: str) -> bool:
        """Whether anything of exactly this target fires."""
        return any(one.label["target"] == target for one in self.alerts.values())

    def _say(self, change: AlertChange, about: Alert) -> None:
        if self.tell is not None and self.clock is not None:
            self.tell([AlertEvent(change, about, self.clock.now())])

    # --- what can be done to it -----------------------------------------------------------------------------------

    async def look(self) -> None:
        """Looking takes time, sometimes."""
        await asyncio.sleep(self.dice.choice((0.0, 0.0, 0.0, 0.1, 4.0)))

    async def touch(self, target: Target, *, disruptive: bool) -> None:
        """An effect begins; what becomes of it nobody knows before. Raises ActionError where it says that it failed."""
        task = asyncio.current_task()
        assert task is not None
        run = int(task.get_name().removeprefix("run-"))
        assert self.judge is not None
        act = self.judge(target, run, disruptive)
        self.touching[target] = run
        try:
            await self._becomes(act)
        finally:
            self.touching.pop(target, None)

    async def _becomes(self, act: Act) -> None:
        how = self.dice.randrange(8 if self.calm else 14)
        if how == 0:
            raise ActionError("it was refused")
        try:
            await asyncio.sleep(7200.0 if how == 1 else self.dice.choice((0.0, 0.5, 3.0)))
        except asyncio.CancelledError:
            # Whoever began it is gone, or waits no longer: it goes on without them, or not.
            if self.dice.random() < 0.5:
                self._happens(act)
            raise
        if how == 2:
            raise ActionError("it failed half-way")
        self._happens(act)
        match how:
            case 3:
                raise ActionError("it happened, and yet it says that it failed")
            case 4 | 5 | 6 | 7 | 8:
                self._later(0, 6, lambda: self.clear(act.target))
            case 9 if act.target != HOST:
                self._later(0, 2, lambda: self.fire(act.target, "Worse"))
            case 10:
                self._later(0, 9, lambda: self.fire(act.target.parent or WEB, "Down"))
            case 11:
                self.clear(act.target)
                self._later(1, 30, lambda: self.fire(act.target, "Down"))

    def _happens(self, act: Act) -> None:
        self.pids[act.target] += 1
        self.ledger.append(act)
        if act.target == PROVIDER:
            self.forced = True
            self._later(5, 15, self._release)
            if self.dice.random() < 0.7:
                self.truths.add("served")

    def _release(self) -> None:
        self.forced = False

    def _later(self, least: float, most: float, then: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(self.dice.uniform(least, most), then)


_UNASKED = "no playbook of these histories asks a service for that"


class ImaginedService:
    """A controller of the machine's services, for an action on `target`."""

    def __init__(self, machine: Machine, name: str, target: Target) -> None:
        self.name = name
        self._machine = machine
        self._target = target

    async def status(self) -> ServiceStatus:
        """It always runs; what is wrong with it only its alerts tell."""
        await self._machine.look()
        return ServiceStatus("running", ProcessIdentity(100 + self._machine.pids[self._target], 1))

    async def halt(self) -> None:
        raise AssertionError(_UNASKED)

    async def restart(self) -> None:
        """The one thing that it is asked for."""
        await self._machine.touch(self._target, disruptive=True)

    async def start(self) -> None:
        raise AssertionError(_UNASKED)

    async def stop(self) -> None:
        raise AssertionError(_UNASKED)

    async def wait_exit(self) -> None:
        raise AssertionError(_UNASKED)


class ImaginedProxy(ProxyApi):
    """The proxy that `web` is, for an action on `target`."""

    def __init__(self, machine: Machine, target: Target) -> None:
        self._machine = machine
        self._target = target

    async def status(self, timeout: float = 2.0) -> MasterStatus:
        await self._machine.look()
        workers = tuple(WorkerStatus(slot=slot, pid=self._pid(slot), state="serving") for slot in (0, 1))
        return MasterStatus(pid=1, started_at=0.0, state="serving", workers=workers)

    async def recycle_worker(
        self, slot: int, mode: Literal["graceful", "kill"], expect_pid: int, timeout: float, reason: str
    ) -> Recycled | AlreadyReplaced:
        if expect_pid != self._pid(slot):
            return AlreadyReplaced("another pid")
        await self._machine.touch(self._target, disruptive=True)
        return Recycled(expect_pid, self._pid(slot))

    async def collect_garbage(self, slot: int, timeout: float = 10.0) -> GarbageCollected:
        await self._machine.touch(self._target, disruptive=False)
        return GarbageCollected(collected=1, before_bytes=2, after_bytes=1, pause_ms=0.1)

    async def providers(self, timeout: float = 5.0) -> dict[str, ProviderHealth]:
        await self._machine.look()
        forced = self._machine.forced
        health = ProviderHealth.model_validate(
            {"status": "unhealthy", "circuit": "open" if forced else "closed", "forced": forced}
        )
        return {"ai": health}

    async def set_circuit(
        self, provider: str, state: Literal["open", "closed"], seconds: float, reason: str, timeout: float = 5.0
    ) -> dict[str, Any]:
        await self._machine.touch(self._target, disruptive=False)
        return {}

    def _pid(self, slot: int) -> int:
        return 100 + self._machine.pids[Target("worker", ("web", str(slot)))]
