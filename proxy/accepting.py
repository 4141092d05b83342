"""Takes connections off a listening socket that several workers share: one a turn, so that a burst is shared too.

A worker that has had its share leaves what comes to the others, and takes only what they leave.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import select
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

BACKLOG = 2048
_WANTING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_WANT_SECONDS = 0.5
"""How long to wait for descriptors or memory before the next try; what waits stays in the kernel's queue."""
_LOOK_SECONDS = 0.01
_LOOKS = 5
"""A worker that has had its share looks this often in a row, that far apart, whether somebody waits whom no other
worker takes: they are dead, or have all that they can do."""
_ALONE_SECONDS = 1.0
"""Then it takes its turn like any other for so long, before it leaves them anything again."""


class Acceptor:
    """An event loop's own accept takes all that waits at once: the worker that wakes first would serve a whole burst,
    and keep-alive would keep it so. Here each turn takes one, and the other workers have theirs in between."""

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        full: Callable[[], bool] = lambda: False,
    ) -> None:
        """Accepts from now on, and while `full` only what nobody else does. The socket is closed by `close`."""
        self._listener = listener
        self._protocol = protocol
        self._full = full
        self._left = 0
        self._alone_until = 0.0
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
        if self._full() and self._loop.time() >= self._alone_until:
            self._loop.remove_reader(self._listener)
            self._left = 0
            self._leave()
            return
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

    def _leave(self) -> None:
        self._pause = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """After a while in which the others could take what waits."""
        if not self._full():
            self._begin()
            return
        waiting = select.poll()
        waiting.register(self._listener, select.POLLIN)
        self._left = self._left + 1 if waiting.poll(0) else 0
        if self._left < _LOOKS:
            self._leave()
            return
        self._alone_until = self._loop.time() + _ALONE_SECONDS
        self._begin()

    async def _open(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, accepted)
        except OSError as error:
            accepted.close()
            log.info("a connection ended before it could be served: %s", error)
