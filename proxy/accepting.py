"""Takes connections off a listening socket that several workers share: one a turn, so that a burst is shared too."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

BACKLOG = 2048
_WANTING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_WANT_SECONDS = 0.5
"""How long to wait for descriptors or memory before the next try; what waits stays in the kernel's queue."""


class Acceptor:
    """An event loop's own accept takes all that waits at once: the worker that wakes first would serve a whole burst,
    and keep-alive would keep it so. Here each turn takes one, and the other workers have theirs in between."""

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Accepts from now on. The socket is closed by `close`."""
        self._listener = listener
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._begin()

    def close(self) -> None:
        """Accepts no more; what the kernel has queued is for the others on the socket. Doing it twice is fine."""
        if self._pause is not None:
            self._pause.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def _begin(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._take)

    def _take(self) -> None:
        try:
            accepted, _address = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was quicker, or the client has gone already
        except OSError as error:
            if error.errno not in _WANTING:
                raise
            log.warning("no connection can be accepted for %g s: %s", _WANT_SECONDS, error)
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(_WANT_SECONDS, self._begin)
            return
        accepted.setblocking(False)
        if accepted.family != socket.AF_UNIX:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._open(accepted))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, accepted)
        except OSError as error:
            accepted.close()
            log.info("a connection ended before it could be served: %s", error)
