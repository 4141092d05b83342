"""Empties the outbox: delivers due rows, each address in a task of its own, and records how it went."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping

from watchdog.clock import Clock
from watchdog.core.model import Sample, labels_of
from watchdog.errors import DeliveryError
from watchdog.notifiers import BusyReceiverError, Notifier, NotifierContext, notifiers
from watchdog.notifiers.dispatch import wait_for_wake, waking
from watchdog.notifiers.routes_file import RoutesConfig
from watchdog.store.outbox import Outbox, OutboxRow

log = logging.getLogger("proxywatch.notify")

STOP_SECONDS = 5.0
"""How long a delivery under way may still take at shutdown; then its lease runs out and it is tried again."""
PRUNE_EVERY_SECONDS = 3600.0


def build_notifiers(config: RoutesConfig, context: NotifierContext) -> dict[str, Notifier]:
    """A notifier for each integration of the file, by address (`receiver/email[0]`)."""
    return {
        f"{receiver}/{integration.name}": notifiers.implementation(_kind(integration.name))(
            integration.settings, context
        )
        for receiver, integrations in config.receivers.items()
        for integration in integrations
    }


def _kind(name: str) -> str:
    return name.partition("[")[0]


class Sender:
    """One attempt at a time for each address: a slow receiver delays its own mail and nobody else's."""

    def __init__(self, outbox: Outbox, receivers: Mapping[str, Notifier], clock: Clock) -> None:
        self.receivers = receivers
        self._outbox = outbox
        self._clock = clock
        self._wake = asyncio.Event()
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        outbox.on_put = self._wake.set

    async def run(self, stop: asyncio.Event) -> None:
        """Delivers until `stop`; wakes when a row is put, when one comes due, and when an address is free again."""
        prune_at = self._clock.now()
        async with waking(stop, self._wake):
            try:
                while not stop.is_set():
                    self._wake.clear()
                    now = self._clock.now()
                    if now >= prune_at:
                        self._outbox.prune(now)
                        prune_at = now + PRUNE_EVERY_SECONDS
                    for row in self._outbox.claim(now, busy=self._under_way):
                        self._begin(row)
                    due = self._outbox.next_due(busy=self._under_way)
                    pause = min(prune_at, prune_at if due is None else due) - self._clock.now()
                    await wait_for_wake(self._wake, max(pause, 0.0))
            finally:
                await self._finish()

    def wake(self) -> None:
        """Looks again at once, after the clock or the receivers have changed."""
        self._wake.set()

    def samples(self) -> tuple[Sample, ...]:
        """What the daemon measures of its own telling; `outcome` is sent, retried or dead."""
        stats = self._outbox.stats()
        oldest = 0.0 if stats.oldest_at is None else max(self._clock.now() - stats.oldest_at, 0.0)
        return (
            *(
                Sample("proxywatch_notifications_total", float(count), labels_of(receiver=receiver, outcome=outcome))
                for (receiver, outcome), count in sorted(self._counts.items())
            ),
            Sample("proxywatch_outbox_pending", float(stats.pending)),
            Sample("proxywatch_outbox_dead", float(stats.dead)),
            Sample("proxywatch_outbox_oldest_seconds", oldest),
        )

    def _begin(self, row: OutboxRow) -> None:
        address = row.delivery.address
        task = asyncio.create_task(self._deliver(row), name=f"deliver to {address}")
        self._under_way[address] = task
        task.add_done_callback(lambda ended: self._ended(address, ended))

    def _ended(self, address: str, task: asyncio.Task[None]) -> None:
        del self._under_way[address]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: the outcome could not be recorded; it is tried again after its lease: %s", address, error)
        self._wake.set()

    async def _deliver(self, row: OutboxRow) -> None:
        delivery = row.delivery
        try:
            await self._notifier(delivery.address).deliver(delivery)
        except DeliveryError as error:
            self._failed(row, error)
        except Exception as error:
            log.exception("notifier for %s is defective", delivery.address)
            self._failed(row, DeliveryError(f"defect in the notifier: {type(error).__name__}: {error}"))
        else:
            self._outbox.sent(row.id)
            self._count(row, "sent")
            log.info("told %s: %s", delivery.address, delivery.key)

    def _notifier(self, address: str) -> Notifier:
        try:
            return self.receivers[address]
        except KeyError:
            raise DeliveryError(f"the routes file has no {address} any more", permanent=True) from None

    def _failed(self, row: OutboxRow, error: DeliveryError) -> None:
        retry_after = error.retry_after_seconds if isinstance(error, BusyReceiverError) else 0.0
        dead = self._outbox.failed(
            row.id, str(error), permanent=error.permanent, now=self._clock.now(), retry_after=retry_after
        )
        self._count(row, "dead" if dead else "retried")
        level, fate = (logging.ERROR, "given up") if dead else (logging.WARNING, "will be tried again")
        log.log(level, "%s: %s %s: %s", row.delivery.address, row.delivery.key, fate, error)

    def _count(self, row: OutboxRow, outcome: str) -> None:
        self._counts[row.delivery.receiver, outcome] += 1

    async def _finish(self) -> None:
        if not self._under_way:
            return
        _, late = await asyncio.wait(self._under_way.values(), timeout=STOP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
