"""What systemd passes to the master, and what it is told: the listening socket, readiness, status, signs of life.

Without systemd nothing is passed and nobody listens: every call here does nothing then.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from sdnotify import SystemdNotifier

from proxy.clock import Clock
from proxy.run_directory import CannotServe

SOCKET_NAME = "http"
"""FileDescriptorName= of the socket unit; needed only where several sockets are passed."""
_FIRST_PASSED_FD = 3
"""sd_listen_fds(3): SD_LISTEN_FDS_START."""
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_SIGNS_PER_LIMIT = 3
_MARGIN_SECONDS = 10.0


def passed_socket() -> socket.socket | None:
    """The listening socket that was passed to this very process (sd_listen_fds(3)); None if none was.

    Its variables are taken out of the environment, for no child of ours is meant. CannotServe if what was passed is not
    one listening TCP socket, or if none of several is named `http`; those that are not ours to serve are closed.
    """
    given = {name: os.environ.pop(name, "") for name in _VARIABLES}
    if given["LISTEN_PID"] != str(os.getpid()):
        return None
    count = int(given["LISTEN_FDS"] or "0")
    if count == 0:
        return None
    names = given["LISTEN_FDNAMES"].split(":") if given["LISTEN_FDNAMES"] else []
    named = [number for number, name in enumerate(names[:count]) if name == SOCKET_NAME]
    chosen = [0] if count == 1 else named
    if len(chosen) != 1:
        passed = f"{count} sockets ({', '.join(names) or 'unnamed'})"
        raise CannotServe(f"systemd passed {passed}; expected one, or one with FileDescriptorName={SOCKET_NAME}")
    for number in range(count):
        if number not in chosen:
            os.close(_FIRST_PASSED_FD + number)
    return _listening(_FIRST_PASSED_FD + chosen[0])


def _listening(descriptor: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=descriptor)
    except OSError as error:
        raise CannotServe(f"what systemd passed as descriptor {descriptor} is no socket: {error.strerror}") from error
    listener.set_inheritable(False)
    if (
        listener.family not in (socket.AF_INET, socket.AF_INET6)
        or listener.type != socket.SOCK_STREAM
        or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        listener.close()
        raise CannotServe(
            "systemd passed a socket that is not a listening TCP socket; expected ListenStream=, Accept=no"
        )
    listener.setblocking(False)
    return listener


class ServiceManager:
    """Tells systemd of one master's life (sd_notify(3)). `environment` says whether somebody listens."""

    def __init__(self, clock: Clock, environment: Mapping[str, str]) -> None:
        self._clock = clock
        self._notifier = SystemdNotifier()
        ours = environment.get("WATCHDOG_PID") in (None, str(os.getpid()))
        self._limit_seconds = int(environment.get("WATCHDOG_USEC", "0")) / 1e6 if ours else 0.0

    def ready(self) -> None:
        """It serves."""
        self._notifier.notify("READY=1")

    @asynccontextmanager
    async def reload(self, seconds: float) -> AsyncIterator[None]:
        """While inside, a reload is under way, which may take so long, whatever the unit says."""
        began = f"RELOADING=1\nMONOTONIC_USEC={int(self._clock.monotonic() * 1e6)}"
        self._notifier.notify(f"{began}\n{_patience(seconds)}")
        try:
            yield
        finally:
            self.ready()

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._notifier.notify(f"STATUS={text}")

    def stopping(self, seconds: float) -> None:
        """The end begins, and may take so long, whatever the unit says."""
        self._notifier.notify(f"STOPPING=1\n{_patience(seconds)}")

    async def live(self) -> None:
        """Gives signs of life (WatchdogSec=) from the loop that replaces workers, until cancelled."""
        while self._limit_seconds:
            self._notifier.notify("WATCHDOG=1")
            await asyncio.sleep(self._limit_seconds / _SIGNS_PER_LIMIT)

    def close(self) -> None:
        """Lets go of systemd's socket."""
        if self._notifier.socket is not None:
            self._notifier.socket.close()


def _patience(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int((seconds + _MARGIN_SECONDS) * 1e6)}"
