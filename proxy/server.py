"""The HTTP server of one worker: accepts on a shared socket, ends what is too slow, and ends itself without a loss."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable

from proxy.accepting import Acceptor
from proxy.connection import App, Bounds, Connection

_SWEEP_SECONDS = 1.0
_SWEEPS_PER_LIMIT = 4
_IDLE_GRACE_SECONDS = 3.0
"""A draining server closes a connection only after it was idle for so long. A client that sends its next request
before that is answered, and the answer says `connection: close`; closing at once would meet it with a
reset. A client on a machine under load has been seen to take 1.5 s from one request to the next."""
_DRAIN_POLL_SECONDS = 0.05


class Server:
    """Serves `app` on a listening socket."""

    def __init__(self, app: App, bounds: Bounds, full: Callable[[], bool] = lambda: False) -> None:
        """While `full`, only connections that no other server on the socket takes are accepted."""
        self._app = app
        self._full = full
        self._bounds = bounds
        self._connections: set[Connection] = set()
        self._accepting: Acceptor | None = None
        self._sweeping: asyncio.TimerHandle | None = None

    @property
    def open(self) -> int:
        """How many connections are, and go on."""
        return sum(not connection.transport.is_closing() for connection in self._connections)

    async def start(self, listener: socket.socket) -> None:
        """Accepts from now on. The socket is the server's to close."""
        loop = asyncio.get_running_loop()
        self._accepting = Acceptor(listener, self._connection, self._full)
        self._sweep(loop)

    async def drain(self, seconds: float) -> None:
        """Stops accepting, finishes what is in hand, closes idle connections, and after `seconds` cancels the rest."""
        loop = asyncio.get_running_loop()
        if self._accepting is not None:
            self._accepting.close()
        deadline = loop.time() + seconds
        while self._connections and loop.time() < deadline:
            for connection in list(self._connections):
                if connection.idle_seconds() >= _IDLE_GRACE_SECONDS:
                    connection.transport.close()
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        await self._cancel(self._connections)
        if self._sweeping is not None:
            self._sweeping.cancel()

    async def _cancel(self, connections: Iterable[Connection]) -> None:
        in_hand = [connection.in_hand for connection in connections if connection.in_hand is not None]
        tasks = [exchange.task for exchange in in_hand if exchange.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(connections):
            connection.transport.close()

    def _connection(self) -> Connection:
        return Connection(self._app, self._bounds, self._connections)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._connections):
            connection.sweep(now)
        shortest = min(self._bounds.head_seconds, self._bounds.body_seconds)
        self._sweeping = loop.call_later(min(_SWEEP_SECONDS, shortest / _SWEEPS_PER_LIMIT), self._sweep, loop)
