"""Takes notices in, lets `core.grouping` decide when they leave, and puts what leaves into the outbox.

What is inhibited, silenced or under maintenance when it would leave stays, and leaves when that is over and it is still
wrong, as in Alertmanager.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from functools import cache

from watchdog.clock import Clock
from watchdog.core import grouping
from watchdog.core.model import Labels, fingerprint
from watchdog.core.routing import Delivery, Notice, NoticeKind, RouteMatch, inhibited, receivers_for
from watchdog.core.silences import maintaining, silencing
from watchdog.core.targets import target_of
from watchdog.notifiers.routes_file import Integration, RoutesConfig
from watchdog.store.database import Database
from watchdog.store.facts import Facts
from watchdog.store.outbox import Outbox


class Dispatcher:
    """Keeps no state in memory: what a rolled-back transaction decided was never decided."""

    def __init__(
        self,
        config: RoutesConfig,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        firing: Callable[[], Iterable[Labels]],
    ) -> None:
        """`firing` gives the labels of all alerts that fire now, for inhibition."""
        self.config = config
        self._database = database
        self._outbox = outbox
        self._facts = Facts(database)
        self._clock = clock
        self._firing = firing
        self._wake = asyncio.Event()

    def notify(self, notice: Notice) -> tuple[Delivery, ...]:
        """Takes one notice in, within the caller's transaction if one is open; returns what left at once."""
        with self._database.transaction():
            matches = self._matches(notice)
            state, deliveries = grouping.receive(
                self._outbox.load_grouping(), notice, matches, self._clock.now(), self._muted()
            )
            self._keep(state, deliveries)
        self._wake.set()
        return deliveries

    def tick(self) -> tuple[Delivery, ...]:
        """Lets leave what is due; returns it."""
        with self._database.transaction():
            state, deliveries = grouping.tick(self._outbox.load_grouping(), self._clock.now(), self._muted())
            self._keep(state, deliveries)
        return deliveries

    def acknowledge(self, incident_id: int) -> None:
        """A person has it: no repetition until there is news."""
        with self._database.transaction():
            self._outbox.save_grouping(grouping.acknowledge(self._outbox.load_grouping(), incident_id))

    def next_due(self) -> float | None:
        """When `tick` has something to do."""
        return grouping.next_due(self._outbox.load_grouping())

    async def run(self, stop: asyncio.Event) -> None:
        """Ticks whenever something is due, until `stop`."""
        async with waking(stop, self._wake):
            while not stop.is_set():
                self._wake.clear()
                due = self.next_due()
                if due is not None and due <= self._clock.now():
                    self.tick()
                    continue
                await wait_for_wake(self._wake, None if due is None else due - self._clock.now())

    def wake(self) -> None:
        """Looks again at once, after the clock or the configuration has changed."""
        self._wake.set()

    def _keep(self, state: grouping.GroupingState, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            for one in addressed(delivery, self.config.receivers.get(delivery.receiver)):
                self._outbox.put(one)
        self._outbox.save_grouping(state)

    def _matches(self, notice: Notice) -> tuple[RouteMatch, ...]:
        matches = receivers_for(self.config.route, notice.labels)
        if notice.kind is not NoticeKind.HEALED:
            return matches
        return tuple(match for match in matches if wants_healed(self.config.receivers.get(match.receiver, ())))

    def _muted(self) -> Callable[[Notice], bool]:
        """Which firing notices are held back now: inhibited, silenced in every alert of theirs, or about a target that
        people are at work on. The state is read once, when something asks."""
        now = self._clock.now()
        firing = cache(lambda: tuple(self._firing()))
        silences = cache(lambda: self._facts.silences(now))
        windows = cache(lambda: self._facts.maintenance(now))

        def muted(notice: Notice) -> bool:
            if inhibited(notice.labels, firing(), self.config.inhibit_rules) is not None:
                return True
            about = [alert.label for alert in notice.alerts] or [notice.label]
            if all(silencing(silences(), labels, now) for labels in about):
                return True
            target = target_of(notice.label, fingerprint(notice.labels))
            return maintaining(windows(), target, now) is not None

        return muted


def wants_healed(integrations: Iterable[Integration]) -> bool:
    """Whether any of a receiver's integrations asks for what was repaired without a person."""
    return any(integration.settings.x_send_healed for integration in integrations)


def addressed(delivery: Delivery, integrations: Iterable[Integration] | None) -> tuple[Delivery, ...]:
    """One delivery for each integration, with only the notices that it wants, and none where nothing is left.

    None stands for a receiver that the routes file no longer has: the delivery keeps its receiver without an
    integration, and ends in the outbox as dead with that reason, where `status` shows it.
    """
    if integrations is None:
        return (delivery,)
    return tuple(filter(None, (_for_integration(delivery, integration) for integration in integrations)))


def _for_integration(delivery: Delivery, integration: Integration) -> Delivery | None:
    settings = integration.settings
    unwanted = {
        kind
        for kind, wanted in (
            (NoticeKind.RESOLVED, settings.send_resolved),
            (NoticeKind.HEALED, settings.x_send_healed),
        )
        if not wanted
    }
    fresh = [notice for notice in delivery.notices[: delivery.fresh] if notice.kind not in unwanted]
    if not fresh and not delivery.repeat:
        return None
    return replace(
        delivery,
        key=f"{delivery.key}:{integration.name}",
        integration=integration.name,
        notices=(*fresh, *delivery.notices[delivery.fresh :]),
        fresh=len(fresh),
    )


@contextlib.asynccontextmanager
async def waking(stop: asyncio.Event, wake: asyncio.Event) -> AsyncIterator[None]:
    """While inside, `stop` sets `wake` too, so that a loop waits for one event only."""
    watcher = asyncio.create_task(stop.wait())
    watcher.add_done_callback(lambda _: wake.set())
    try:
        yield
    finally:
        watcher.cancel()


async def wait_for_wake(wake: asyncio.Event, seconds: float | None) -> None:
    """Until `wake` is set or `seconds` (None: for ever) have passed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()
