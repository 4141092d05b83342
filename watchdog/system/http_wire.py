"""HTTP/1.1 over one connection: an asyncio transport and a parser in C, nothing else."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import httptools

from watchdog.errors import ProbeError

Fault = Literal["dns", "refused", "timeout", "tls", "network", "protocol", "too_large"]
"""Why no answer came. `refused` includes a Unix socket that is not there; `protocol` an answer that is not HTTP."""

MAX_BYTES = 8 * 1024 * 1024
_MAX_HEADER_BYTES = 64 * 1024
_TLS_GOODBYE_SECONDS = 1.0


class HttpError(ProbeError):
    """No usable answer came; `fault` is the class of the reason. An HTTP status, whichever it is, is an answer."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault: Fault = fault


class ClosedEarlyError(HttpError):
    """The peer closed the connection before it answered anything."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `headers` are complete but for the length of the body."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | None = None

    def encoded(self) -> bytes:
        """As it goes out. HttpError (protocol) if a header would begin a line of its own."""
        length = (("content-length", str(len(self.body))),) if self.body is not None else ()
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {text}" for name, text in self.headers + length)]
        if any("\r" in line or "\n" in line or "\0" in line for line in lines):
            raise HttpError("a header of the request has a line break in it", "protocol")
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + (self.body or b"")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `phases` are seconds: `connect` and `tls` if they were done for it, `processing` (until the
    headers) and `transfer`."""

    status: int
    headers: dict[str, str]
    body: bytes
    phases: dict[str, float]


class HttpConnection(asyncio.Protocol):
    """One connection, one exchange at a time: `send`, then `receive`, or `receive_status` and `receive_part`."""

    def __init__(self) -> None:
        self.opening: dict[str, float] = {}
        """Seconds that `connect` and `tls` took, until the first exchange has told them."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._lost = False
        self._complete = True
        self._keep_alive = True

    # --- what the transport tells ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._complete:
            self._keep_alive = False  # nobody asked for this
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._finish(keep_alive=False)
        except httptools.HttpParserError as error:
            if not self._complete:
                self._fail(HttpError(str(error), "protocol"))
            self._keep_alive = False
        if self._size > self._max_bytes:
            self._fail(HttpError(f"the answer is larger than {self._max_bytes} bytes", "too_large"))
        elif self._head_size > _MAX_HEADER_BYTES or (not self._headers_at and self._received > _MAX_HEADER_BYTES):
            self._fail(HttpError(f"the answer's headers are larger than {_MAX_HEADER_BYTES} bytes", "protocol"))
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if not self._complete:
            if exc is not None:
                self._fail(exc)
            elif not self._headers_at:
                self._fail(ClosedEarlyError("the connection was closed before the answer", "network"))
            elif self._length_known:
                self._fail(HttpError("the answer was cut short", "protocol"))
            else:
                self._finish(keep_alive=False)
        self._wake()

    # --- what the parser finds ------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value)
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return  # not yet the answer
        self._headers_at = self._loop.time()
        names = {name.lower() for name, _ in self._headers}
        self._length_known = b"content-length" in names or b"transfer-encoding" in names
        if self._method == "HEAD":
            self._finish(keep_alive=False)

    def on_body(self, chunk: bytes) -> None:
        self._size += len(chunk)
        self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        if self._headers_at:
            self._finish(keep_alive=self._parser.should_keep_alive())
        else:
            self._headers.clear()

    def _finish(self, *, keep_alive: bool) -> None:
        if not self._complete:
            self._complete = True
            self._keep_alive = keep_alive
            self._complete_at = self._loop.time()

    def _fail(self, error: Exception) -> None:
        self._keep_alive = False
        if self._error is None:
            self._error = error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- for the caller -------------------------------------------------------------------------------------------

    def send(self, request: Request, max_bytes: int = MAX_BYTES) -> None:
        """Sends a request; the body of its answer may have `max_bytes` that were not taken yet."""
        data = request.encoded()
        self._method = request.method
        self._max_bytes = max_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._size = self._head_size = self._received = 0
        self._headers_at = self._complete_at = 0.0
        self._length_known = self._complete = False
        self._error = None
        self._sent_at = self._loop.time()
        assert self._transport is not None
        self._transport.write(data)

    async def receive(self) -> Answer:
        """The whole answer. Raises HttpError, or what the transport failed with."""
        while not self._complete:
            await self._more()
        if self._error is not None:
            raise self._error
        phases = self.opening | {
            "processing": self._headers_at - self._sent_at,
            "transfer": self._complete_at - self._headers_at,
        }
        self.opening = {}
        return Answer(self._parser.get_status_code(), _merged(self._headers), self._take(), phases)

    async def receive_status(self) -> int:
        """The status of an answer whose body goes on."""
        while not self._headers_at:
            await self._more()
        return int(self._parser.get_status_code())

    async def receive_part(self) -> bytes:
        """The next part of the body; empty at its end."""
        while not (part := self._take()) and not self._complete:
            await self._more()
        return part

    @property
    def reusable(self) -> bool:
        """Whether the connection can take another exchange."""
        return self._complete and self._keep_alive and not self._lost

    def set_aside(self) -> None:
        """Closes the connection, without waiting for what is still to be said to the peer."""
        if self._transport is not None:
            # An exchange that was left in its middle owes the peer nothing.
            (self._transport.close if self._complete else self._transport.abort)()

    async def close(self) -> None:
        """Closes the connection and waits until it is."""
        self.set_aside()
        while not self._lost:
            await self._next_event()

    async def encrypt(self, context: ssl.SSLContext, host: str) -> None:
        """TLS speaks on the connection from now on. Raises OSError."""
        assert self._transport is not None
        encrypted = await self._loop.start_tls(
            self._transport, self, context, server_hostname=host, ssl_shutdown_timeout=_TLS_GOODBYE_SECONDS
        )
        if encrypted is None:
            raise ConnectionResetError("the connection was closed during the TLS handshake")
        self._transport = encrypted

    async def _more(self) -> None:
        if self._error is None and not self._lost:
            await self._next_event()
        if self._error is not None:
            raise self._error
        if self._lost and not self._complete:
            raise ClosedEarlyError("the connection was closed before the answer", "network")

    async def _next_event(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _take(self) -> bytes:
        body = b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        return body


def _merged(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Names in lower case; what stands in several lines is one text, as RFC 9110 has it."""
    merged: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        merged[name] = f"{merged[name]}, {value}" if name in merged else value
    return merged
