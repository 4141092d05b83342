"""Starts the services that are children of ours, when the daemon begins or takes them over; and ends them with it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping, MutableMapping

from watchdog.errors import ProxywatchError
from watchdog.system.services import ServiceController, ServiceSettings

log = logging.getLogger("proxywatch")

KIND = "child"


async def start_children(
    chosen: Mapping[str, ServiceSettings],
    services: Mapping[str, ServiceController],
    *,
    halted: Collection[str],
    wanted_all: bool,
    unstarted: MutableMapping[str, str],
) -> None:
    """Those of `chosen` that do not run; what an earlier life of ours started is adopted. `halted`: targets that a
    repair has put out of service, which stay so. `wanted_all`: also those that were stopped on purpose. What could not
    be started is put into `unstarted`, by name, with the reason."""
    for name, settings in chosen.items():
        if settings.kind != KIND or f"service:{name}" in halted:
            continue
        status = await services[name].status()
        if status.state == "running" and status.identity is not None:
            log.info("service %s runs already (pid %d)", name, status.identity.pid)
        elif wanted_all or not status.on_purpose:
            log.info("starting service %s", name)
            try:
                await services[name].start()
            except ProxywatchError as error:
                log.error("service %s: %s", name, error)  # noqa: TRY400
                unstarted[name] = str(error)
            else:
                unstarted.pop(name, None)


async def stop_children(chosen: Mapping[str, ServiceSettings], services: Mapping[str, ServiceController]) -> None:
    """All of `chosen` that are children."""
    for name, settings in chosen.items():
        if settings.kind == KIND:
            log.info("stopping service %s", name)
            with contextlib.suppress(ProxywatchError):
                await services[name].stop()
