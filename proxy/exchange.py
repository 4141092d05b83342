"""One HTTP exchange: how far its request has come, and how far its answer; what a handler is given, what it answers."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from proxy.auth import Caller
from proxy.call import Account
from proxy.dialects.anthropic.errors import error_body
from proxy.eager import in_task
from proxy.errors import ApiError

Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_MESSAGES = "/v1/messages"
_REASONS = {
    200: b"OK",
    201: b"Created",
    202: b"Accepted",
    204: b"No Content",
    400: b"Bad Request",
    401: b"Unauthorized",
    402: b"Payment Required",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
_STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b"")) for status in range(200, 1000)}
_BODILESS = frozenset((204, 304))
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)
"""socket(7), SO_LINGER: closed without patience, a connection is reset, which tells even HTTP/1.0 that not all came."""
_SMALL_REST = 64 * 1024
"""The rest of a body that nobody wants is read and forgotten up to this declared length; else the connection ends."""


class GatewayReply(Protocol):
    """What the gateway answers a completion with; a body that is an iterator is a stream."""

    status: int
    headers: Headers
    body: bytes | AsyncIterator[bytes]
    account: Account | None


@dataclass(slots=True)
class Plain:
    """A whole answer."""

    status: int
    body: bytes | AsyncIterator[bytes]
    headers: Headers
    account: Account | None = None


@dataclass(slots=True)
class Request:
    """One request, as handlers see it. `argument` is the variable part of the path, `query` what follows its `?`."""

    headers: dict[str, str]
    caller: Caller | None
    id: str
    argument: str
    body: bytes
    query: str = ""
    parts: Callable[[], AsyncIterator[bytes]] | None = None
    """The body as it comes, for routes that take it so; `body` is empty there."""
    account: Account | None = None
    """Set by handlers that ask a model, before they do, so that it is there however that ends."""


Handler = Callable[[Request], Awaitable[GatewayReply]]


class Line(Protocol):
    """What an exchange needs of its connection."""

    transport: asyncio.Transport
    congested: bool
    """Whether the client takes less than it is sent, so that a stream should wait for `drained`."""

    async def drained(self) -> None:
        """Waits until it is congested no more."""
        ...

    def ended(self, exchange: Exchange) -> None:
        """The exchange has had all that it will get."""
        ...


class Exchange:
    """One request and how far its answer has come. Made by the connection, answered by the app.

    The app sets what it learns: `began`, `id`, `label`, `caller`, `request`. `fault` is what is wrong with the request
    itself.
    """

    __slots__ = (
        "_arrival",
        "_chunked",
        "_head",
        "_parts",
        "arrived",
        "began",
        "caller",
        "complete",
        "continues",
        "declared",
        "fault",
        "gone",
        "headers",
        "id",
        "keep_alive",
        "label",
        "limits",
        "line",
        "method",
        "modern",
        "path",
        "peer",
        "piecewise",
        "query",
        "request",
        "size",
        "status",
        "task",
    )

    def __init__(
        self,
        line: Line,
        peer: str | None,
        method: str,
        path: str,
        query: str,
        headers: dict[str, str],
        *,
        modern: bool,
        keep_alive: bool,
        fault: ApiError | None = None,
    ) -> None:
        """`modern`: HTTP/1.1, so that its answer may come in chunks."""
        self.line = line
        self.peer = peer
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.modern = modern
        self.keep_alive = keep_alive
        self.fault = fault
        self.declared = 0
        """Length of the body as the client declared it; 0 when it did not."""
        self.continues = False
        """Whether the client waits for `100 Continue` before it sends its body."""
        self.arrived = False
        """Whether the whole request has come."""
        self.piecewise = False
        """Whether the body may be of any size, and is taken by `parts`."""
        self.size = 0
        self._parts: list[bytes] | None = None
        self._arrival: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.began = 0.0
        self.id = ""
        self.label = "other"
        self.limits = b""
        """Header lines that tell of the caller's limits."""
        self.caller: Caller | None = None
        self.request: Request | None = None
        self.status = 0
        """0 until an answer has begun."""
        self.complete = False
        """Whether the whole answer has been sent."""
        self.gone = False
        """Whether the client went away before that."""
        self._head: bytes | None = None
        self._chunked = False

    # The request, as the connection brings it

    def take(self, data: bytes) -> None:
        """A part of the body has come."""
        self.size += len(data)
        if self.piecewise:
            self._wake()
            self.line.transport.pause_reading()
        if self._parts is None:
            self._parts = [data]
        else:
            self._parts.append(data)

    def arrive(self) -> None:
        """The request is whole."""
        self.arrived = True
        self._wake()

    def fail(self, fault: ApiError) -> None:
        """The rest of the request will not come, or not count; whoever waits for it is told why."""
        self.fault = self.fault or fault
        self.keep_alive = False
        self._parts = None
        self._wake()

    def leave(self) -> None:
        """The client has gone: the work is cancelled, so that the upstream is closed at once."""
        self.gone = True
        if self.task is not None:
            self.task.cancel()

    @property
    def waits_for_body(self) -> bool:
        """Whether the app cannot go on before more of the body has come."""
        return self._arrival is not None

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def body(self) -> bytes:
        """The whole body. ApiError when it is too large, too late, or no HTTP."""
        if not self.arrived and self.fault is None:
            await self._more()
        return self.whole_body()

    def whole_body(self) -> bytes:
        """`body`, when the whole request has come. ApiError when it was too large, or no HTTP."""
        if self.fault is not None:
            raise self.fault
        parts, self._parts = self._parts, None
        return b"" if parts is None else parts[0] if len(parts) == 1 else b"".join(parts)

    async def parts(self) -> AsyncIterator[bytes]:
        """A piecewise body as it comes; nothing more is read before what has come is taken. ApiError when it is too
        late, or no HTTP."""
        while self.fault is None:
            parts, self._parts = self._parts, None
            for part in parts or ():
                yield part
            if self._parts is None and self.fault is None:
                if self.arrived:
                    return
                self.line.transport.resume_reading()
                await self._more()
        raise self.fault

    async def _more(self) -> None:
        await in_task()
        if self.continues:
            self.continues = False
            self.line.transport.write(_CONTINUE)
        self._arrival = asyncio.get_running_loop().create_future()
        try:
            await self._arrival
        finally:
            self._arrival = None

    # The answer, as the app gives it

    def send_whole(self, status: int, fields: bytes, body: bytes) -> None:
        """Sends a whole answer in one write. `fields` are `header_lines`, without length and connection."""
        begin = _STATUS_LINES[status]
        self.status = status
        self.complete = True
        transport = self.line.transport
        if transport.is_closing():
            return
        end = b"\r\n" if self._keeps() else b"connection: close\r\n\r\n"
        if status in _BODILESS:
            transport.write(b"%b%b%b" % (begin, fields, end))
            return
        shown = b"" if self.method == "HEAD" else body
        transport.write(b"".join((begin, fields, b"content-length: %d\r\n" % len(body), end, shown)))

    def start_stream(self, status: int, fields: bytes) -> None:
        """Begins an answer whose length is unknown. Its head is sent along with the first chunk."""
        begin = _STATUS_LINES[status]
        self._chunked = self.modern
        if not self.modern:
            self.keep_alive = False
        coding = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        end = b"\r\n" if self._keeps() else b"connection: close\r\n\r\n"
        self._head = b"%b%b%b%b" % (begin, fields, coding, end)
        self.status = status

    def write(self, chunk: bytes) -> None:
        """One chunk of a stream in one write; an empty one is none. While the line is congested, wait before more."""
        if chunk and self.method != "HEAD":
            self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked else chunk)

    def end_stream(self) -> None:
        """The stream is whole."""
        self._write(b"0\r\n\r\n" if self._chunked and self.method != "HEAD" else b"")
        self.complete = True

    def _write(self, data: bytes) -> None:
        if self._head is not None:
            data, self._head = self._head + data, None
        transport = self.line.transport
        if data and not transport.is_closing():
            transport.write(data)

    def _keeps(self) -> bool:
        """Decides with the answer's head whether the connection goes on: not when too much of the request is to come,
        nor when it may never come."""
        if not self.arrived and (self.continues or not 0 < self.declared <= _SMALL_REST):
            self.keep_alive = False
        return self.keep_alive

    def cut(self) -> None:
        """Ends an answer that cannot be completed, so that the client sees that it is cut."""
        self.keep_alive = False
        if self.status and not self.complete and not self.modern:
            sock = self.line.transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.line.transport.abort()

    def end(self) -> None:
        """Nothing more will be done for this exchange."""
        if self.piecewise and not self.line.transport.is_closing():
            self.line.transport.resume_reading()
        self.line.ended(self)


def header_lines(headers: Headers) -> bytes:
    """The lines of these headers. ValueError if a line break in one of them would make more lines."""
    lines = b"".join([part for name, value in headers for part in (name, b": ", value, b"\r\n")])
    if not lines.count(b"\n") == lines.count(b"\r") == len(headers):
        raise ValueError("a header holds a line break")
    return lines


def json_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object; ApiError 400 if it is none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(document, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    return document


def is_number(value: object) -> bool:
    """Whether JSON gave a number; its true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def document(content: Any, status: int = 200) -> Plain:
    """A JSON answer."""
    return Plain(status, orjson.dumps(content), [_JSON])


def envelope(error: ApiError, path: str, request_id: str) -> Plain:
    """An error in the dialect of who calls `path`: Anthropic's envelope below its endpoint, OpenAI's elsewhere."""
    headers: Headers = [_JSON, *error.headers]
    if error.retryable is not None:
        headers.append((b"x-should-retry", b"true" if error.retryable else b"false"))
    if path.startswith(_MESSAGES):
        headers.append((b"request-id", request_id.encode()))
        return Plain(error.status, error_body(error.status, error.message, request_id), headers)
    return Plain(error.status, error.body(), headers)
