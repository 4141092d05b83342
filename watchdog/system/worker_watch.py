"""Sees a worker die or serve the moment it happens: a pidfd per worker process, and the master's own announcements."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing, suppress

from watchdog.errors import ProbeError
from watchdog.system import process
from watchdog.system.process import ProcessIdentity
from watchdog.system.proxy_api import MasterStatus, ProxyApi, WorkerEvent, WorkerStatus

Told = Callable[[int, bool, bool], None]
"""Takes slot, whether its process lives, and whether it serves."""

Exited = Callable[[WorkerEvent], None]
"""Takes what the master tells of a process that has ended, how it did included."""

_RETRY_FIRST_SECONDS = 0.1
_RETRY_MOST_SECONDS = 5.0


class WorkerWatch:
    """Which process stands for which slot, and a waiter for each. Pids come from the master, by event or by status."""

    def __init__(self) -> None:
        self._current: dict[int, ProcessIdentity] = {}
        self._waiters: dict[ProcessIdentity, asyncio.Task[None]] = {}
        self._told: Told | None = None
        self._exited: Exited | None = None

    async def run(self, api: Callable[[], ProxyApi], told: Told, exited: Exited) -> None:
        """Runs until it is cancelled, whatever happens to the proxy. `told` is called once per change, `exited` for
        each end that the master knows of, after `told`."""
        self._told, self._exited = told, exited
        for slot, identity in self._current.items():
            self._wait_for(slot, identity)
        delay = _RETRY_FIRST_SECONDS
        try:
            while True:
                with suppress(ProbeError):  # the measurements say that the master does not answer
                    async with aclosing(api().events()) as events:
                        async for event in events:
                            delay = _RETRY_FIRST_SECONDS
                            self._heard(event)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MOST_SECONDS)
        finally:
            self._told = self._exited = None
            waiters, self._waiters = list(self._waiters.values()), {}
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)

    def learn(self, workers: Iterable[WorkerStatus]) -> None:
        """Takes in the master's present view."""
        for worker in workers:
            if worker.pid is not None:
                self._stands_for(worker.slot, worker.pid, serves=worker.state == "serving")

    def _heard(self, event: MasterStatus | WorkerEvent) -> None:
        if isinstance(event, MasterStatus):
            self.learn(event.workers)
            return
        match event.event:
            case "starting" if event.pid is not None:
                self._stands_for(event.slot, event.pid, serves=False)
            case "serving" if event.pid is not None:
                identity = self._stands_for(event.slot, event.pid, serves=True)
                if identity is not None and self._told is not None:
                    self._told(event.slot, True, True)
            case "exited":
                current = self._current.get(event.slot)
                if current is not None and current.pid == event.pid:
                    self._ended(event.slot, current)
                if self._exited is not None:
                    self._exited(event)

    def _stands_for(self, slot: int, pid: int, *, serves: bool) -> ProcessIdentity | None:
        """In a graceful recycle the old process stands for the slot until the new one serves."""
        identity = process.identify(pid)
        if identity is None:
            return None
        current = self._current.get(slot)
        if identity != current and (serves or current is None or not process.alive(current)):
            self._current[slot] = identity
            self._wait_for(slot, identity)
        return identity

    def _wait_for(self, slot: int, identity: ProcessIdentity) -> None:
        if self._told is None or identity in self._waiters:
            return
        waiter = asyncio.create_task(self._until_ended(slot, identity))
        self._waiters[identity] = waiter
        waiter.add_done_callback(lambda _: self._waiters.pop(identity, None))

    async def _until_ended(self, slot: int, identity: ProcessIdentity) -> None:
        await process.wait_exit(identity)
        self._ended(slot, identity)

    def _ended(self, slot: int, identity: ProcessIdentity) -> None:
        """Whoever brings the news first tells it; a process that no longer stands for its slot is no news."""
        if self._current.get(slot) == identity:
            del self._current[slot]
            if self._told is not None:
                self._told(slot, False, False)
