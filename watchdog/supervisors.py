"""Listens to the supervisors that repair services beside us (systemd), so that the guards know at once what they do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from watchdog.errors import ProxywatchError
from watchdog.system.services import ServiceController, Supervised

log = logging.getLogger("proxywatch")

RETRY_SECONDS = 15.0


class Supervisors:
    """One task for each service that has a supervisor of its own."""

    def __init__(self, ring: Callable[[], None]) -> None:
        """`ring` is called when a supervisor began or ended something: whoever waits for it looks again."""
        self._ring = ring
        self._tasks: dict[str, tuple[ServiceController, asyncio.Task[None]]] = {}

    async def replace(self, services: Mapping[str, ServiceController]) -> None:
        """Listens to these from now on, and to no others."""
        for name, (service, task) in list(self._tasks.items()):
            if services.get(name) is not service:
                del self._tasks[name]
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        for name, service in services.items():
            if isinstance(service, Supervised) and name not in self._tasks:
                task = asyncio.create_task(self._listen(name, service), name=f"supervisor-{name}")
                self._tasks[name] = service, task

    async def end(self) -> None:
        """Listens to none."""
        await self.replace({})

    async def _listen(self, name: str, service: Supervised) -> None:
        said = ""
        while True:
            try:
                await service.watch(self._ring)
            except ProxywatchError as error:
                if str(error) != said:
                    said = str(error)
                    log.warning("what is done to %s by its supervisor is not known: %s %s", name, error, error.hint)
            await asyncio.sleep(RETRY_SECONDS)
