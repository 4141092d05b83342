"""From alert changes to repairs: the desk takes them in, triage considers incidents; a few at once, more in turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from watchdog.core.incidents import Incident
from watchdog.core.model import AlertEvent
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.triage import Triage
from watchdog.playbooks.turns import Turns

AT_ONCE = 16
"""So many are dealt with in line, and in one transaction; with hundreds in line nobody else would be answered."""


class Intake:
    """What waits here is lost with the process, and found again: `Desk.sync` compares incidents with alerts."""

    def __init__(
        self,
        desk: Desk,
        triage: Triage,
        turns: Turns,
        *,
        trouble: Callable[[], AbstractContextManager[None]],
        ready: Callable[[], bool],
    ) -> None:
        """`trouble` reports a store that cannot be written, and goes on. Until the agent is `ready`, incidents are
        opened and nothing is done about them."""
        self._desk = desk
        self._triage = triage
        self._turns = turns
        self._trouble = trouble
        self._events: deque[AlertEvent] = deque()
        self._incidents: dict[int, None] = {}
        self._wake = asyncio.Event()
        self._ready = ready

    def take(self, events: Iterable[AlertEvent]) -> None:
        """Takes alert changes in, in their order."""
        self._events.extend(events)
        if len(self._events) <= AT_ONCE:
            self._take_some()
        else:
            self._wake.set()

    def consider(self, incidents: Iterable[Incident]) -> None:
        """Lets triage decide about each."""
        if not self._ready():
            return
        self._incidents.update((incident.id, None) for incident in incidents)
        if len(self._incidents) <= AT_ONCE:
            while self._incidents:
                self._consider_next()
        else:
            self._wake.set()

    async def run(self) -> None:
        """Works off what was too much at once, for as long as the daemon runs."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._events or self._incidents:
                await self._turns.mine()
                with self._trouble():
                    if self._events:
                        self._take_some()
                    elif self._incidents:
                        self._consider_next()

    def _take_some(self) -> None:
        some = [self._events.popleft() for _ in range(min(AT_ONCE, len(self._events)))]
        self.consider(self._desk.take(some))

    def _consider_next(self) -> None:
        identifier = next(iter(self._incidents))
        del self._incidents[identifier]
        incident = self._desk.get(identifier)
        if incident is not None and incident.resolved_at is None:
            self._triage.consider(incident)
