"""What systemd's manager can be asked: how a unit is, and to start, stop or restart it, until its job has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from watchdog.system.systemd.bus import MANAGER_PATH, SYSTEMD, SystemBus, SystemdError
from watchdog.system.systemd.facts import UnitFacts, unit_facts

if TYPE_CHECKING:
    from dbus_fast import Message

_MANAGER = f"{SYSTEMD}.Manager"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_JOB_REMOVED = f"type='signal',sender='{SYSTEMD}',interface='{_MANAGER}',member='JobRemoved'"
_CHANGED = f"type='signal',sender='{SYSTEMD}',interface='{_PROPERTIES}',member='PropertiesChanged'"
_ERRORS = {
    "org.freedesktop.systemd1.NoSuchUnit": "systemd knows no such unit",
    "org.freedesktop.systemd1.UnitMasked": "it is masked: nothing can start it until `systemctl unmask`",
    "org.freedesktop.systemd1.LoadFailed": "its unit file cannot be loaded",
    "org.freedesktop.systemd1.TransactionIsDestructive": "another job for it stands in the way",
    "org.freedesktop.systemd1.ShuttingDown": "the machine is shutting down",
}


class Manager:
    """Of one bus. Each call raises SystemdError, with what is missing where systemd refused."""

    def __init__(self, bus: SystemBus) -> None:
        self._bus = bus
        self._paths: dict[str, str] = {}

    async def facts(self, unit: str) -> UnitFacts:
        """How the unit is now; one that systemd does not know has `load` not-found."""
        return unit_facts(unit, *await self._both(unit))

    async def properties(self, unit: str) -> dict[str, Any]:
        """All that systemd tells of the unit, as D-Bus gives it."""
        base, service = await self._both(unit)
        return {**base, **service}

    async def _both(self, unit: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        path = await self._path(unit)
        base = await self._properties(path, f"{SYSTEMD}.Unit")
        service: Mapping[str, Any] = {}
        if unit.endswith(".service"):
            service = await self._properties(path, f"{SYSTEMD}.Service")
        return base, service

    async def start(self, unit: str, timeout: float) -> None:
        """Returns when the unit has started, which for `Type=notify` means that it said so."""
        await self._job("StartUnit", unit, timeout)

    async def stop(self, unit: str, timeout: float) -> None:
        """Returns when the unit has stopped."""
        await self._job("StopUnit", unit, timeout)

    async def restart(self, unit: str, timeout: float) -> None:
        """Returns when the unit has stopped and started again."""
        await self._job("RestartUnit", unit, timeout)

    async def reset_failed(self, unit: str) -> None:
        """Forgets failures, so that a unit that was started too often may be started again."""
        await self._order(unit, "ResetFailedUnit", "s", (unit,))

    @asynccontextmanager
    async def news(self, *units: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever a property of one of the units changed, or may have while the connection was
        broken. Whoever clears it and looks then, and waits after that, misses nothing."""
        paths = {await self._path(unit) for unit in units}
        for path in sorted(paths):
            await self._bus.match(f"{_CHANGED},path='{path}'")
        happened = asyncio.Event()

        def heard(message: Message | None) -> None:
            if message is None or (message.path in paths and message.member == "PropertiesChanged"):
                happened.set()

        with self._bus.listening(heard):
            yield happened

    async def _job(self, method: str, unit: str, timeout: float) -> None:
        await self._bus.match(_JOB_REMOVED)
        ended: dict[str, str] = {}
        news = asyncio.Event()

        def heard(message: Message | None) -> None:
            if message is None:
                ended["*"] = "lost"
            elif message.member == "JobRemoved":
                ended[message.body[1]] = message.body[3]
            else:
                return
            news.set()

        with self._bus.listening(heard):
            (job,) = await self._order(unit, method, "ss", (unit, "replace"))
            try:
                async with asyncio.timeout(timeout):
                    while job not in ended and "*" not in ended:
                        news.clear()
                        await news.wait()
            except TimeoutError:
                raise SystemdError(f"{unit}: {method} has not ended after {timeout:g} s; its job goes on") from None
        result = ended.get(job, "lost")
        if result == "lost":
            raise SystemdError(f"{unit}: the connection to systemd broke during {method}")
        if result != "done":
            told = "no more is known"
            with suppress(SystemdError):
                told = (await self.facts(unit)).told
            raise SystemdError(f"{unit}: the job of {method} ended as {result}: {told}")

    async def _order(self, unit: str, method: str, signature: str, body: tuple[Any, ...]) -> list[Any]:
        try:
            return await self._bus.call(MANAGER_PATH, _MANAGER, method, signature, body)
        except SystemdError as error:
            if error.refused:
                raise SystemdError(
                    f"{unit}: this user may not call {method}",
                    name=error.name,
                    hint="a polkit rule has to allow it for exactly this unit and user: see docs/systemd.md; until then"
                    f" root can do it by hand: `systemctl {method.removesuffix('Unit').lower()} {unit}`",
                    permanent=True,
                ) from error
            why = _ERRORS.get(error.name, str(error))
            raise SystemdError(f"{unit}: {why}", name=error.name, permanent=error.name in _ERRORS) from error

    async def _path(self, unit: str) -> str:
        if unit not in self._paths:
            (self._paths[unit],) = await self._bus.call(MANAGER_PATH, _MANAGER, "LoadUnit", "s", (unit,))
        return self._paths[unit]

    async def _properties(self, path: str, interface: str) -> dict[str, Any]:
        (found,) = await self._bus.call(path, _PROPERTIES, "GetAll", "s", (interface,))
        return {name: variant.value for name, variant in found.items()}
