"""One connection to the system bus: calls, and who is told of which signal. It is made when it is first needed, and
again after it broke; whoever was waiting for a signal is told that it may have been missed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from watchdog.errors import ActionError

if TYPE_CHECKING:
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
CALL_SECONDS = 25.0
"""How long one answer may take; D-Bus' own default."""

_REFUSED = frozenset(
    {
        "org.freedesktop.DBus.Error.AccessDenied",
        "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
        "org.freedesktop.DBus.Error.AuthFailed",
    }
)


class SystemdError(ActionError):
    """systemd cannot be asked, or refused. `name` is D-Bus' own name of the error, empty where there was no answer."""

    def __init__(self, message: str, *, name: str = "", hint: str = "", permanent: bool = False) -> None:
        super().__init__(message, hint=hint, permanent=permanent)
        self.name = name

    @property
    def refused(self) -> bool:
        """This user may not do that."""
        return self.name in _REFUSED


Listener = Callable[["Message | None"], None]
"""Takes each signal, and None when the connection broke."""


class SystemBus:
    """`address` is a seam: the system bus, unless a test names another."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._bus: MessageBus | None = None
        self._connecting = asyncio.Lock()
        self._listeners: list[Listener] = []
        self._rules: set[str] = set()
        self._watching: asyncio.Task[None] | None = None

    async def call(
        self, path: str, interface: str, member: str, signature: str = "", body: tuple[Any, ...] = ()
    ) -> list[Any]:
        """One call to systemd; its answer's arguments. Raises SystemdError."""
        return await self._ask(SYSTEMD, path, interface, member, signature, body)

    async def match(self, rule: str) -> None:
        """From now on signals of this match rule reach the listeners, after a broken connection too."""
        if rule not in self._rules:
            connected = self._bus is not None and self._bus.connected
            self._rules.add(rule)
            if connected:
                await self._add_match(rule)
            else:
                await self._connected()

    @contextlib.contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Calls `listener` with every signal that arrives meanwhile."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def close(self) -> None:
        """Ends the connection; the next call makes another."""
        if self._bus is not None:
            self._bus.disconnect()
            self._bus = None

    async def _ask(
        self, destination: str, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...]
    ) -> list[Any]:
        from dbus_fast import Message, MessageType

        bus = await self._connected()
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        try:
            async with asyncio.timeout(CALL_SECONDS):
                answer = await bus.call(message)
        except TimeoutError:
            raise SystemdError(f"systemd did not answer {member} within {CALL_SECONDS:g} s") from None
        except (OSError, EOFError) as error:
            self._broken(bus)
            raise SystemdError(f"the connection to the system bus broke: {error or type(error).__name__}") from error
        if answer.message_type is MessageType.ERROR:
            said = str(answer.body[0]) if answer.body else answer.error_name or "no reason given"
            raise SystemdError(said, name=answer.error_name or "")
        return list(answer.body)

    async def _connected(self) -> MessageBus:
        from dbus_fast import BusType
        from dbus_fast.aio import MessageBus
        from dbus_fast.errors import DBusFastError

        async with self._connecting:
            if self._bus is not None and self._bus.connected:
                return self._bus
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    bus = await MessageBus(bus_address=self._address, bus_type=BusType.SYSTEM).connect()
            except (OSError, EOFError, TimeoutError, DBusFastError) as error:
                why = getattr(error, "strerror", None) or str(error) or "no answer"
                raise SystemdError(
                    f"the system bus cannot be reached: {why}",
                    hint="units can be managed only where systemd and D-Bus run; `kind: command` needs neither",
                ) from error
            bus.add_message_handler(self._received)
            self._bus = bus
            self._watching = asyncio.create_task(self._watch(bus), name="system-bus")
        # systemd sends signals only to whom asked for them.
        await self.call(MANAGER_PATH, f"{SYSTEMD}.Manager", "Subscribe")
        for rule in sorted(self._rules):
            await self._add_match(rule)
        return bus

    async def _watch(self, bus: MessageBus) -> None:
        """Learns of a connection that breaks while nobody calls."""
        with contextlib.suppress(Exception):
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self._broken(bus)

    async def _add_match(self, rule: str) -> None:
        await self._ask(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", (rule,)
        )

    def _received(self, message: Message) -> None:
        from dbus_fast import MessageType

        if message.message_type is MessageType.SIGNAL:
            for listener in tuple(self._listeners):
                listener(message)

    def _broken(self, bus: MessageBus) -> None:
        if self._bus is bus:
            self._bus = None
            for listener in tuple(self._listeners):
                listener(None)
