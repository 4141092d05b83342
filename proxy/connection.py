"""One client's connection: uvicorn's protocol, and what of it had to be cheaper or to know more."""

from __future__ import annotations

import array
import asyncio
import fcntl
import termios
from functools import partial
from typing import Any, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from proxy.exchange import ON_DISCONNECT, WHOLE_ANSWER, Headers


class Connection(HttpToolsProtocol):
    """uvicorn's connection, which tells a request in hand that its client has gone, and sends whole answers at once."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        cast("dict[str, Any]", cycle.scope)[WHOLE_ANSWER] = partial(send_whole, cycle)
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            gone = cast("dict[str, Any]", cycle.scope).get(ON_DISCONNECT)
            if gone is not None:
                gone()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Idle from the first moment on, until a request has come."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()

    def on_response_complete(self) -> None:
        """Idle again, unless the client has sent its next request already."""
        super().on_response_complete()
        self._idle_since = self.loop.time()

    def idle_seconds(self) -> float:
        """How long it has had nothing to do; 0 while a request is in hand, or in the kernel and not yet read."""
        if self.cycle is not None and not self.cycle.response_complete:
            return 0.0
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.transport.is_closing():
            return 0.0
        unread = array.array("i", [0])
        fcntl.ioctl(sock.fileno(), termios.FIONREAD, unread)
        return 0.0 if unread[0] else self.loop.time() - self._idle_since


async def send_whole(cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> None:
    """What two ASGI messages would do, for an answer whose headers tell its length: in one write, and with one look for
    line breaks in the whole head (ValueError) instead of one at each header."""
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return
    if (b"connection", b"close") in headers:
        cycle.keep_alive = False
    elif not cycle.keep_alive:
        headers = [*headers, (b"connection", b"close")]
    lines = [STATUS_LINE[status], *[b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]]
    head = b"".join(lines)
    if not head.count(b"\n") == head.count(b"\r") == len(lines):
        raise ValueError("a header holds a line break")
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"%b\r\n%b" % (head, b"" if cycle.scope["method"] == "HEAD" else body))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
