"""Tells a notice without the daemon: no outbox, no grouping, no silences; whom the routes name is told at once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from watchdog.core.routing import Delivery, Notice, receivers_for
from watchdog.errors import DeliveryError
from watchdog.notifiers import Notifier
from watchdog.notifiers.dispatch import addressed
from watchdog.notifiers.routes_file import RoutesConfig

PAUSES_SECONDS = (0.0, 2.0, 10.0)
"""Before each attempt at one integration: a network that only comes up with the machine is waited for a little."""


@dataclass(frozen=True, slots=True)
class Told:
    """How one integration took it: `error` is empty once it was accepted."""

    address: str
    error: str = ""


async def tell(routes: RoutesConfig, notifiers: Mapping[str, Notifier], notice: Notice, now: float) -> tuple[Told, ...]:
    """All integrations of all receivers that the routes choose, at the same time. Empty if the routes name nobody
    who can be reached. `notifiers` are those of `build_notifiers` for the same file."""
    deliveries = [
        one
        for match in receivers_for(routes.route, notice.labels)
        for one in addressed(_delivery(notice, match.receiver, now), routes.receivers[match.receiver])
    ]
    unlike = {delivery.address: delivery for delivery in deliveries}
    return tuple(await asyncio.gather(*(_deliver(notifiers[address], one) for address, one in unlike.items())))


def _delivery(notice: Notice, receiver: str, now: float) -> Delivery:
    digest = hashlib.blake2b(f"{receiver}\x00{notice.key}".encode(), digest_size=8).hexdigest()
    return Delivery(
        key=f"{notice.key}:{digest}",
        receiver=receiver,
        group_key="{}:{}",
        group_labels=(),
        notices=(notice,),
        fresh=1,
        created_at=now,
    )


async def _deliver(notifier: Notifier, delivery: Delivery) -> Told:
    error = ""
    for pause in PAUSES_SECONDS:
        await asyncio.sleep(pause)
        try:
            await notifier.deliver(delivery)
        except DeliveryError as failed:
            error = str(failed)
            if failed.permanent:
                break
        else:
            return Told(delivery.address)
    return Told(delivery.address, error)
