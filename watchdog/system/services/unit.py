"""`unit`: the service is a systemd unit; it is asked, started and stopped over D-Bus.

systemd's own repair comes first: while it starts the unit again, has a job for it or is in the middle of a start or a
stop, `supervision` says so and the guards refuse to do the same. A unit that ended without a fault, or is masked, was
stopped on purpose by somebody and is not started again. A unit that systemd gave up (`start-limit-hit`) has its
counter reset before the next start; budgets and backoff of proxywatch then take the place of that limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Literal

from watchdog.core.permission import Denial
from watchdog.registry import Duration
from watchdog.system.process import identify
from watchdog.system.services import ServiceContext, ServiceError, ServiceSettings, ServiceStatus, services
from watchdog.system.services.record import RecordFile, ServiceRecord
from watchdog.system.systemd.bus import SystemdError
from watchdog.system.systemd.facts import UnitFacts, supervision
from watchdog.system.systemd.manager import Manager
from watchdog.system.systemd.names import UnitName


class UnitSettings(ServiceSettings):
    """`unit` is its whole name, such as nginx.service."""

    kind: Literal["unit"]
    unit: UnitName
    start_timeout: Duration = 90.0
    stop_timeout: Duration = 90.0


@services.register(UnitSettings)
class UnitService:
    """See the module."""

    def __init__(self, settings: UnitSettings, context: ServiceContext) -> None:
        self.name = context.name
        self.unit = settings.unit
        self._settings = settings
        self._clock = context.clock
        self._manager = Manager(context.bus)
        self._file = RecordFile(context.run_dir, context.name)
        self.seen: UnitFacts | None = None
        """What systemd last said of it."""

    async def status(self) -> ServiceStatus:
        with self._told():
            facts = await self._look()
        if facts.load == "not-found":
            return ServiceStatus("unknown", note=facts.told)
        record = self._file.read()
        ours = record is not None and not record.wanted and facts.verdict in ("stopped", "failed")
        identity = identify(facts.main_pid) if facts.main_pid else None
        since = self._clock.now() - (time.monotonic() - facts.began) if facts.began and identity else None
        state = "stopped" if ours else facts.verdict
        by_somebody = facts.on_purpose and not (record is not None and record.halted)
        return ServiceStatus(state, identity, since, note=facts.told, on_purpose=ours or by_somebody)

    async def start(self) -> None:
        async with self._lock():
            self._file.write(ServiceRecord(wanted=True))
            with self._told():
                await self._clear_limit()
                await self._manager.start(self.unit, self._settings.start_timeout)

    async def stop(self) -> None:
        async with self._lock():
            self._file.write(ServiceRecord(wanted=False))
            with self._told():
                await self._manager.stop(self.unit, self._settings.stop_timeout)

    async def halt(self) -> None:
        async with self._lock():
            self._file.write(ServiceRecord(wanted=True, halted=True))
            with self._told():
                await self._manager.stop(self.unit, self._settings.stop_timeout)

    async def restart(self) -> None:
        async with self._lock():
            self._file.write(ServiceRecord(wanted=True))
            both = self._settings.start_timeout + self._settings.stop_timeout
            with self._told():
                await self._clear_limit()
                await self._manager.restart(self.unit, both)

    async def wait_exit(self) -> None:
        with self._told():
            async with self._manager.news(self.unit) as news:
                while True:
                    news.clear()
                    if (await self._look()).verdict != "running":
                        return
                    await news.wait()

    async def properties(self) -> dict[str, Any]:
        """All that systemd tells of the unit, as D-Bus gives it."""
        with self._told():
            return await self._manager.properties(self.unit)

    def supervision(self) -> Denial | None:
        """What systemd was doing to the unit when it was last looked at; `until` in the agent's own clock."""
        monotonic = time.monotonic()
        found = supervision(self.seen, monotonic) if self.seen is not None else None
        if found is None or found.until is None:
            return found
        return Denial(found.reason, found.text, self._clock.now() + found.until - monotonic)

    async def watch(self, changed: Callable[[], None]) -> None:
        """Keeps what `supervision` tells as new as systemd's own word, and calls `changed` then. Does not return;
        raises ServiceError when systemd cannot be asked."""
        with self._told():
            async with self._manager.news(self.unit) as news:
                while True:
                    news.clear()
                    await self._look()
                    changed()
                    await news.wait()

    async def _look(self) -> UnitFacts:
        self.seen = await self._manager.facts(self.unit)
        return self.seen

    async def _clear_limit(self) -> None:
        if (await self._look()).result == "start-limit-hit":
            await self._manager.reset_failed(self.unit)

    def _lock(self) -> AbstractAsyncContextManager[None]:
        return self._file.lock(self._settings.start_timeout + self._settings.stop_timeout)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What systemd says no to, as everything that starts and stops services says it."""
        try:
            yield
        except SystemdError as error:
            told = ServiceError(f"{self.name}: {error}", permanent=error.permanent)
            told.hint = error.hint
            raise told from error
