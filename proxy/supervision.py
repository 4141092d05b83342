"""One slot at work: runs what the table of `slots.py` orders, with real processes and timers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.children import Child, watch_death
from proxy.clock import Clock
from proxy.slots import Action, Event, State, crash_count, restart_delay, step

Launch = Callable[[int, Callable[[], None]], Child]
"""Starts a process for a slot number; the second argument is to be called when it serves."""
Announce = Callable[[str, int, int | None], None]
"""Hears of each change: event, slot, pid."""


@dataclass(frozen=True, slots=True)
class Pace:
    """`recycle` of the settings, in seconds."""

    drain_timeout: float
    start_timeout: float
    backoff_initial: float
    backoff_max: float
    backoff_reset: float
    max_age: float = 0.0


class RecycleFailed(Exception):  # noqa: N818 - it names what happened
    """The process that should have taken over died, or the slot was stopped."""


class Slot:
    """A place for one process, which is kept filled until it is stopped."""

    def __init__(
        self,
        number: int,
        launch: Launch,
        pace: Pace,
        clock: Clock,
        announce: Announce,
        on_exit: Callable[[Child], None],
    ) -> None:
        self.number = number
        self.pace = pace
        self.state = State.BACKOFF
        self.child: Child | None = None
        self.starts = 0
        self.crashes = 0
        self.consecutive_crashes = 0
        self.next_start_at: float | None = None
        self.last_exit: str | None = None
        self.last_pid: int | None = None
        """The process that ended last, and how."""
        self._launch = launch
        self._clock = clock
        self._announce = announce
        self._on_exit = on_exit
        self._replacement: Child | None = None
        self._processes: dict[int, Child] = {}
        self._due: asyncio.TimerHandle | None = None
        self._serving: list[asyncio.Future[int]] = []
        self._crashed: Child | None = None
        self._actions: dict[Action, Callable[[], None]] = {
            Action.NOTHING: lambda: None,
            Action.SPAWN: self._start_child,
            Action.SPAWN_REPLACEMENT: self._start_replacement,
            Action.ANNOUNCE: self._announce_serving,
            Action.PROMOTE: self._promote,
            Action.ADOPT: self._adopt,
            Action.GIVE_UP: self._give_up,
            Action.KILL_STARTING: self._kill_starting,
            Action.SCHEDULE: self._schedule,
            Action.TERMINATE: self._terminate,
            Action.FORGET: self._forget,
        }

    # What others ask of it

    def start(self) -> None:
        """Starts the process now, whatever delay was pending; only for a slot without a process."""
        self.next_start_at = None
        if self._due is not None:
            self._due.cancel()
            self._due = None
        self._event(Event.DUE)

    def recycle(self) -> asyncio.Future[int]:
        """Replaces a serving process gracefully; the future has the new pid once it serves, or RecycleFailed."""
        if self.state is State.SERVING:
            self._event(Event.RECYCLE)
        return self.served()

    def served(self) -> asyncio.Future[int]:
        """The pid of the next process that serves, or RecycleFailed."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._serving.append(future)
        return future

    def kill(self) -> None:
        """SIGKILLs the present process; it is replaced at once and this counts as no crash."""
        if self.child is not None:
            self.child.excused = True
            self.child.send(signal.SIGKILL)

    def stop(self) -> None:
        """Ends the slot: its processes drain and nothing replaces them. Doing it twice is fine."""
        if self.state not in (State.STOPPING, State.GONE):
            self._event(Event.STOP)

    def kill_all(self) -> None:
        """SIGKILLs everything that still runs for this slot."""
        for child in self._processes.values():
            child.send(signal.SIGKILL)

    async def gone(self, pid: int | None = None) -> None:
        """Waits until process `pid` (None: every process of this slot) is dead."""
        for child in [child for child in self.processes if pid in (None, child.pid)]:
            await child.dead.wait()

    @property
    def processes(self) -> list[Child]:
        """Everything that lives for this slot, the draining included."""
        return list(self._processes.values())

    def view(self) -> dict[str, Any]:
        """What `/status` says of it."""
        child = self.child
        shown = {State.REPLACING: State.SERVING, State.STOPPING: "draining", State.GONE: "draining"}
        return {
            "slot": self.number,
            "pid": child.pid if child else None,
            "state": str(shown.get(self.state, self.state)),
            "started_at": child.started_at if child else None,
            "serving_since": child.serving_at if child else None,
            "starts": self.starts,
            "crashes": self.crashes,
            "consecutive_crashes": self.consecutive_crashes,
            "next_start_at": self.next_start_at,
            "last_exit": self.last_exit,
            "last_pid": self.last_pid,
        }

    # What happens to it

    def _event(self, event: Event) -> None:
        self.state, action = step(self.state, event)
        self._actions[action]()

    def _start_child(self) -> None:
        self.child = self._spawn()

    def _start_replacement(self) -> None:
        self._replacement = self._spawn()

    def _adopt(self) -> None:
        self.child, self._replacement = self._replacement, None

    def _give_up(self) -> None:
        self._replacement = None
        self._fail_waiting(f"the replacement died: {self.last_exit}")

    def _kill_starting(self) -> None:
        starting = self._replacement or self.child
        if starting is not None:
            starting.send(signal.SIGKILL)

    def _terminate(self) -> None:
        self._replacement = None
        for process in self._processes.values():
            self._drain(process)
        self._fail_waiting("the slot is being stopped")

    def _forget(self) -> None:
        if self._due is not None:
            self._due.cancel()
        self.next_start_at = None
        self._fail_waiting("the slot is being stopped")

    def _spawn(self) -> Child:
        child = self._launch(self.number, lambda: self._ready(child))
        self.starts += 1
        self._processes[child.pid] = child
        watch_death(child.pid, lambda: self._died(child))
        child.limit(self.pace.start_timeout, lambda: self._overdue(child))
        self._announce("starting", self.number, child.pid)
        return child

    def _ready(self, child: Child) -> None:
        if child.pid in self._processes and child in (self.child, self._replacement):
            child.serving_at, child.serving = self._clock.wall(), self._clock.monotonic()
            self._event(Event.READY)

    def _overdue(self, child: Child) -> None:
        if child.serving is None and child.pid in self._processes and child in (self.child, self._replacement):
            self._event(Event.OVERDUE)

    def _died(self, child: Child) -> None:
        del self._processes[child.pid]
        child.bury()
        self.last_exit, self.last_pid = child.exit_text(), child.pid
        self._on_exit(child)
        self._announce("exited", self.number, child.pid)
        crashed = not child.excused and not (child.process.returncode == 0 and child.serving is not None)
        if crashed:
            self.crashes += 1
        if child is self._replacement:
            self._event(Event.REPLACEMENT_DIED)
        elif child is self.child:
            self.child = None
            self._crashed = child if crashed else None
            self._event(Event.DIED)

    def _announce_serving(self) -> None:
        assert self.child is not None
        pid = self.child.pid
        self._announce("serving", self.number, pid)
        waiting, self._serving = self._serving, []
        for future in waiting:
            if not future.done():
                future.set_result(pid)

    def _promote(self) -> None:
        old, self.child, self._replacement = self.child, self._replacement, None
        self._announce_serving()
        if old is not None:
            self._drain(old)

    def _drain(self, child: Child) -> None:
        child.excused = True
        child.send(signal.SIGTERM)
        child.limit(self.pace.drain_timeout, lambda: child.send(signal.SIGKILL))
        self._announce("draining", self.number, child.pid)

    def _schedule(self) -> None:
        crashed, delay = self._crashed, 0.0
        if crashed is not None:
            served = None if crashed.serving is None else self._clock.monotonic() - crashed.serving
            pace = self.pace
            self.consecutive_crashes = crash_count(
                self.consecutive_crashes, served_seconds=served, reset_seconds=pace.backoff_reset
            )
            delay = restart_delay(
                self.consecutive_crashes,
                served=served is not None,
                initial=pace.backoff_initial,
                maximum=pace.backoff_max,
            )
        if delay == 0.0:
            self._event(Event.DUE)
            return
        self.next_start_at = self._clock.wall() + delay
        self._due = asyncio.get_running_loop().call_later(delay, self.start)
        self._announce("backoff", self.number, None)

    def _fail_waiting(self, reason: str) -> None:
        waiting, self._serving = self._serving, []
        for future in waiting:
            if not future.done():
                future.set_exception(RecycleFailed(reason))
