"""Tells systemd how the agent fares (sd_notify(3)): readiness, signs of life, a status for people.

Says nothing where no service manager listens.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger("proxywatch")


class ServiceManager:
    """The way to the service manager that `environment` names. Messages are sent or lost, never waited for."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None
        ours = environment.get("WATCHDOG_PID") in (None, str(os.getpid()))
        self.watchdog_seconds = int(environment.get("WATCHDOG_USEC", "0")) / 1e6 if ours else 0.0
        """How long it waits for a sign of life (WatchdogSec=); 0: it does not."""

    def tell(self, assignment: str, status: str = "") -> None:
        """One assignment such as READY=1, and with it a status in any language, of which line ends are made spaces."""
        if self._socket is None:
            return
        lines = [assignment, f"STATUS={' '.join(status.split())}"] if status else [assignment]
        try:
            self._socket.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError as error:
            log.warning("systemd could not be told %s: %s", assignment, error)

    def close(self) -> None:
        """Lets go of the socket."""
        if self._socket is not None:
            self._socket.close()
