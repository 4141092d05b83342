"""Units over D-Bus: orders that wait for their job, refusals that say what is missing, and systemd's own repairs."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from acted_systemd import UNIT, ActedSystemd, Script

from watchdog.clock import SystemClock
from watchdog.core.permission import Reason
from watchdog.system.http import HttpClient
from watchdog.system.services import ServiceContext, ServiceError
from watchdog.system.services.unit import UnitService, UnitSettings
from watchdog.system.systemd.bus import SystemBus

pytestmark = pytest.mark.skipif(
    shutil.which("dbus-daemon") is None and "CI" not in os.environ, reason="needs dbus-daemon (package dbus)"
)

Make = Callable[..., UnitService]


@pytest.fixture
async def script() -> Script:
    return Script()


@pytest.fixture
async def acted(script: Script) -> AsyncIterator[ActedSystemd]:
    acted = ActedSystemd(script)
    await acted.start()
    yield acted
    await acted.stop()


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


@pytest.fixture
async def make(acted: ActedSystemd, tmp_path: Path, http: HttpClient) -> AsyncIterator[Make]:
    bus = SystemBus(acted.address)

    def service(**more: object) -> UnitService:
        settings = UnitSettings.model_validate({"kind": "unit", "unit": UNIT, **more})
        return UnitService(settings, ServiceContext("web", tmp_path, tmp_path, SystemClock(), http, bus))

    yield service
    bus.close()


@pytest.mark.parametrize(("order", "call"), [("start", "StartUnit"), ("stop", "StopUnit"), ("restart", "RestartUnit")])
async def test_an_order_returns_when_its_own_job_is_done(make: Make, script: Script, order: str, call: str) -> None:
    """It waits for the job that it was given, whatever becomes of other jobs of the same unit."""
    await getattr(make(), order)()
    assert script.calls == ["Subscribe", call]


async def test_a_job_that_fails_says_why(make: Make, script: Script) -> None:
    """The error tells how the job ended, and what systemd knows of the unit."""
    script.result = "failed"
    script.unit |= {"ActiveState": "failed", "SubState": "failed"}
    script.service |= {"Result": "exit-code", "ExecMainStatus": 3}
    told = "web: web.service: the job of RestartUnit ended as failed: web.service is failed (failed), its main process"
    with pytest.raises(ServiceError, match=re.escape(told)):
        await make().restart()


async def test_a_job_that_does_not_end_is_not_waited_for_without_end(make: Make, script: Script) -> None:
    """After the time that the configuration gives it, the order fails and says that the job goes on."""
    script.result = None
    with pytest.raises(ServiceError, match=r"has not ended after 0\.05 s; its job goes on"):
        await make(start_timeout="50ms").start()


async def test_without_a_polkit_rule_it_says_what_is_missing(make: Make, script: Script) -> None:
    """A refusal is permanent, and its hint names the rule and the command by which root can do it."""
    script.error = (
        "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
        "Interactive authentication required.",
    )
    with pytest.raises(ServiceError, match="this user may not call RestartUnit") as caught:
        await make().restart()
    assert caught.value.permanent
    assert "polkit" in caught.value.hint
    assert "systemctl restart web.service" in caught.value.hint


async def test_what_systemd_gave_up_may_be_started_again(make: Make, script: Script) -> None:
    """A unit that hit its start limit has its counter reset before the start, and only then."""
    script.unit |= {"ActiveState": "failed", "SubState": "failed"}
    script.service |= {"Result": "start-limit-hit"}
    await make().start()
    assert script.calls == ["Subscribe", "ResetFailedUnit", "StartUnit"]


async def test_its_own_stop_is_on_purpose_even_where_the_unit_failed(make: Make, script: Script) -> None:
    """A unit that ends badly when we stop it was stopped on purpose all the same; after our start it is not."""
    service = make()
    await service.stop()
    script.unit |= {"ActiveState": "failed", "SubState": "failed"}
    script.service |= {"Result": "signal", "ExecMainStatus": 9}
    status = await service.status()
    assert (status.state, status.on_purpose) == ("stopped", True)
    await service.start()
    status = await service.status()
    assert (status.state, status.on_purpose) == ("failed", False)


async def test_it_learns_at_once_what_systemd_does_by_itself(make: Make, acted: ActedSystemd) -> None:
    """While systemd waits to start the unit again the guards are told to leave it alone, without a question in
    between; when it runs again they are told nothing."""
    service = make()
    looked: list[int] = []
    watching = asyncio.create_task(service.watch(lambda: looked.append(1)))
    assert service.supervision() is None
    await until(lambda: service.seen)
    acted.change(ActiveState="activating", SubState="auto-restart")
    await until(service.supervision)
    denial = service.supervision()
    assert denial is not None
    assert denial.reason is Reason.SUPERVISOR_BUSY
    acted.change(ActiveState="active", SubState="running")
    await until(lambda: service.supervision() is None)
    assert len(looked) >= 3, "and whoever waits for it is woken"
    watching.cancel()


async def test_the_end_of_a_unit_is_announced(make: Make, acted: ActedSystemd) -> None:
    """`wait_exit` returns when the unit runs no more, and not before."""
    service = make()
    waiting = asyncio.create_task(service.wait_exit())
    await until(lambda: service.seen)
    acted.change(Description="something else")
    await asyncio.sleep(0)
    assert not waiting.done()
    acted.change(ActiveState="inactive", SubState="dead")
    async with asyncio.timeout(45):
        await waiting


async def test_a_bus_that_breaks_is_an_error_and_not_a_wait(make: Make, acted: ActedSystemd, script: Script) -> None:
    """Who waits for a job, or for news, when the bus goes away is told so; a bus that is not there says so too."""
    script.result = None
    service = make(start_timeout="20s")
    starting = asyncio.create_task(service.start())
    await until(lambda: "StartUnit" in script.calls)
    await acted.stop()
    with pytest.raises(ServiceError, match="the connection to systemd broke"):
        async with asyncio.timeout(45):
            await starting
    with pytest.raises(ServiceError, match="the system bus cannot be reached"):
        await service.status()


async def test_a_new_bus_is_found_again(tmp_path: Path, http: HttpClient, script: Script) -> None:
    """After the bus was restarted the next question connects anew, and signals are heard again."""
    acted = ActedSystemd(script)
    await acted.start()
    bus = SystemBus(acted.address)
    settings = UnitSettings.model_validate({"kind": "unit", "unit": UNIT})
    service = UnitService(settings, ServiceContext("web", tmp_path, tmp_path, SystemClock(), http, bus))
    await service.restart()
    socket = acted.address.partition("path=")[2].partition(",")[0]
    await acted.stop()
    await until_raises(service.status)
    again = ActedSystemd(script)
    await again.start(f"unix:path={socket}")
    await service.restart()
    assert script.calls == ["Subscribe", "RestartUnit", "Subscribe", "RestartUnit"]
    bus.close()
    await again.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(45):
        while not condition():
            await asyncio.sleep(0.005)


async def until_raises(ask: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(45):
        while True:
            try:
                await ask()
            except ServiceError:
                return
            await asyncio.sleep(0.005)
