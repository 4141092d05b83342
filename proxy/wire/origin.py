"""A provider's server, and the connections to it that wait for a next request."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable

from proxy.wire.connection import Connection

KEEP_ALIVE_SECONDS = 15.0


class Origin:
    """Scheme, host and port. Shared by all requests to it."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self.host = host
        self.port = port
        self.tls = tls
        self.idle: list[Connection] = []
        """The one that was used last is the last, and the next to be used: what is too many gets old."""
        self.open: set[Connection] = set()
        """All of them, idle or not."""
        self._when_closed: Callable[[], None] | None = None

    def take(self, now: float) -> Connection | None:
        """An idle connection that has not been idle for long."""
        while self.idle:
            connection = self.idle.pop()
            if connection.usable and now - connection.idle_since < KEEP_ALIVE_SECONDS:
                return connection
            connection.abort()
        return None

    def sweep(self, now: float) -> None:
        """Closes what has been idle for too long."""
        kept = [one for one in self.idle if one.usable and now - one.idle_since < KEEP_ALIVE_SECONDS]
        for connection in set(self.idle).difference(kept):
            connection.abort()
        self.idle[:] = kept

    def expire(self, now: float) -> bool:
        """Ends what has been waited for too long; whether anything is left that has a limit."""
        limited = [connection for connection in self.open if connection.until != math.inf]
        for connection in limited:
            if connection.until <= now:
                connection.close(TimeoutError("the answer took too long"))
        return bool(limited)

    def lost(self, connection: Connection) -> None:
        """A connection has ended."""
        self.open.discard(connection)
        if not self.open and self._when_closed is not None:
            self._when_closed()

    async def close(self) -> None:
        """Closes all connections and waits until they are."""
        self.idle.clear()
        if not self.open:
            return
        closed = asyncio.Event()
        self._when_closed = closed.set
        for connection in list(self.open):
            connection.close()
        await closed.wait()
