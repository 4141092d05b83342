"""One connection to a provider: one request at a time, and the answer that comes for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import httptools

from proxy.routing.outcome import Fault
from proxy.wire.answer import Answer
from proxy.wire.errors import ClosedEarlyError, UpstreamError

if TYPE_CHECKING:
    from proxy.wire.origin import Origin

_UNREAD_BYTES = 256 * 1024
"""As much may wait for a reader before the peer is held up."""
_FRUITLESS_BYTES = 64 * 1024
"""As much of headers, trailers and chunk extensions may come without a byte of a body."""
_JOINED_BYTES = 32 * 1024
"""A longer body is not copied to stand behind its head."""


class Connection(asyncio.Protocol):
    """Belongs to the pool of its origin while it has nothing to do."""

    __slots__ = ("_answer", "_feed", "_fruitless", "_loop", "_origin", "_paused", "_transport", "idle_since")

    def __init__(self, origin: Origin, loop: asyncio.AbstractEventLoop) -> None:
        self._origin = origin
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._feed: Callable[[bytes], None] | None = None
        self._fruitless = 0
        self._paused = False
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether a request may be sent, as far as is known here."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes) -> Answer:
        """Sends a request; its answer has not begun."""
        transport = self._transport
        self._answer = answer = Answer(self, self._loop)
        self._feed = answer.feed
        self._fruitless = 0
        if transport is None:
            answer.fail(ClosedEarlyError("the connection was closed before the request"))
        elif len(body) <= _JOINED_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        return answer

    def resume(self) -> None:
        """Goes on reading, if that had been paused."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Closes at once."""
        self._answer = self._feed = None
        if self._transport is not None:
            self._transport.abort()

    def close(self, reason: UpstreamError | TimeoutError | None = None) -> None:
        """Closes at once and tells whoever waits for an answer."""
        answer = self._answer
        self.abort()
        if answer is not None:
            answer.fail(reason or UpstreamError(Fault.NETWORK, "the proxy closed the connection"))

    @property
    def until(self) -> float:
        """When its answer is no longer waited for, on the loop's clock; infinite without such a limit."""
        return math.inf if self._answer is None else self._answer.until

    # --- what the transport tells ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)
        self._origin.open.add(self)

    def data_received(self, data: bytes) -> None:
        """A part of the answer; without a request, a reason to close."""
        answer, feed = self._answer, self._feed
        if answer is None or feed is None:
            self.abort()
            return
        received = answer.received
        try:
            feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            answer.surplus = True
            answer.fail(UpstreamError(Fault.MALFORMED, f"the answer is not HTTP: {error}"))
        if answer.ended or answer.failed:
            self._settle(answer)
        elif answer.received > received:
            self._fruitless = 0
            if answer.unread > _UNREAD_BYTES and not self._paused:
                self._pause()
        else:
            self._fruitless += len(data)
            if self._fruitless > _FRUITLESS_BYTES:
                answer.fail(UpstreamError(Fault.MALFORMED, f"more than {_FRUITLESS_BYTES} bytes of headers"))
                self.abort()
        answer.wake(full=self._paused)

    def connection_lost(self, exc: Exception | None) -> None:
        """Either side has closed."""
        self._transport = None
        self._origin.lost(self)
        answer, self._answer, self._feed = self._answer, None, None
        if answer is None:
            return
        if exc is None and answer.status and answer.until_close:
            answer.end(keep_alive=False)
        elif answer.status or self._fruitless:
            answer.fail(UpstreamError(Fault.NETWORK, f"the answer was cut{_because(exc)}"))
        else:
            answer.fail(ClosedEarlyError(f"the connection was closed before an answer{_because(exc)}"))
        answer.wake()

    def _settle(self, answer: Answer) -> None:
        """Goes back to the pool after an answer that ended cleanly, and if the request had gone out whole by then."""
        self._answer = self._feed = None
        transport = self._transport
        clean = answer.keep_alive and not answer.surplus and transport is not None and not transport.is_closing()
        if clean and transport is not None and not transport.get_write_buffer_size():
            self.resume()
            self.idle_since = self._loop.time()
            self._origin.idle.append(self)
        else:
            self.abort()

    def _pause(self) -> None:
        if self._transport is not None:
            self._paused = True
            self._transport.pause_reading()


def _because(error: Exception | None) -> str:
    return "" if error is None else f": {error}"
