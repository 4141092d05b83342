"""A bus of the test's own, and on it somebody who answers as systemd's manager does for one unit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

UNIT = "web.service"
PATH = "/org/freedesktop/systemd1/unit/web_2eservice"
NEVER = 2**64 - 1


@dataclass
class Script:
    """What the manager is to do: how a job ends (`None`: never), or with which error it is refused."""

    result: str | None = "done"
    error: tuple[str, str] | None = None
    calls: list[str] = field(default_factory=list)
    unit: dict[str, Any] = field(
        default_factory=lambda: {
            "LoadState": "loaded",
            "ActiveState": "active",
            "SubState": "running",
            "UnitFileState": "enabled",
            "StateChangeTimestampMonotonic": 5_000_000,
            "InactiveExitTimestampMonotonic": 4_000_000,
        }
    )
    service: dict[str, Any] = field(
        default_factory=lambda: {
            "Result": "success",
            "MainPID": 0,
            "NRestarts": 0,
            "ExecMainCode": 0,
            "ExecMainStatus": 0,
            "Restart": "on-failure",
            "RestartUSec": 100_000,
            "TimeoutStartUSec": 90_000_000,
            "TimeoutStopUSec": NEVER,
        }
    )


_MANAGER = "org.freedesktop.systemd1.Manager"
_PROPERTIES = "org.freedesktop.DBus.Properties"


class ActedSystemd:
    """Answers on a bus of its own as the manager does."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.address = ""
        self._jobs = 0
        self._daemon: asyncio.subprocess.Process | None = None
        self._bus: MessageBus | None = None

    async def start(self, address: str = "") -> None:
        """A bus of the test's own with nobody else on it, at an address that it had before if that is given."""
        argv = ["dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address"]
        argv += [f"--address={address}"] if address else []
        self._daemon = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        assert self._daemon.stdout is not None
        self.address = (await self._daemon.stdout.readline()).decode().strip()
        self._bus = await MessageBus(bus_address=self.address).connect()
        self._bus.add_message_handler(self._answer)
        await self._bus.request_name("org.freedesktop.systemd1")

    async def stop(self) -> None:
        """The bus ends, and with it every connection."""
        if self._bus is not None:
            self._bus.disconnect()
        if self._daemon is not None and self._daemon.returncode is None:
            self._daemon.terminate()
            await self._daemon.wait()

    def change(self, **unit: Any) -> None:
        """The unit's properties change, and systemd says so."""
        self.script.unit.update(unit)
        body = ["org.freedesktop.systemd1.Unit", {}, list(unit)]
        self._signal(PATH, _PROPERTIES, "PropertiesChanged", "sa{sv}as", body)

    def _signal(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        assert self._bus is not None
        self._bus.send(Message.new_signal(path, interface, member, signature, body))

    def _answer(self, message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        match message.member:
            case "Subscribe" | "ResetFailedUnit":
                self.script.calls.append(message.member)
                return Message.new_method_return(message)
            case "LoadUnit":
                return Message.new_method_return(message, "o", [PATH])
            case "GetAll":
                known = self.script.unit if message.body[0].endswith(".Unit") else self.script.service
                shaped = {name: Variant(_shape(value), value) for name, value in known.items()}
                return Message.new_method_return(message, "a{sv}", [shaped])
            case "StartUnit" | "StopUnit" | "RestartUnit":
                return self._job(message)
        return None

    def _job(self, message: Message) -> Message:
        self.script.calls.append(message.member or "")
        if self.script.error is not None:
            return Message.new_error(message, *self.script.error)
        self._jobs += 1
        job = f"/org/freedesktop/systemd1/job/{self._jobs}"
        if self.script.result is not None:
            # Another's job ends first: whoever waits for his own must not take it for that.
            for number, path, result in ((999, "/other/job", "failed"), (self._jobs, job, self.script.result)):
                body = [number, path, UNIT, result]
                asyncio.get_running_loop().call_soon(
                    self._signal, "/org/freedesktop/systemd1", _MANAGER, "JobRemoved", "uoss", body
                )
        return Message.new_method_return(message, "o", [job])


def _shape(value: object) -> str:
    return {str: "s", int: "t", tuple: "(uo)"}[type(value)]
