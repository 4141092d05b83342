"""One client's connection: HTTP/1.1 by httptools, one request in hand at a time, and an end to whatever takes too long.

What a client sends is parsed as it comes; reading stops while a request waits for the one before it. Framing that two
parties might read differently is llhttp's to refuse (strict mode), and what it lets pass and should not, ours.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import termios
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import unquote

import httptools

from proxy import eager
from proxy.errors import ApiError
from proxy.exchange import Exchange

KEEP_ALIVE_SECONDS = 75.0
_LINGER_SECONDS = 2.0
"""After an answer to a request that is still coming, so long is the rest read, lest a reset overtake the answer."""

App = Callable[[Exchange], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a client may send, and how slowly."""

    head_bytes: int
    body_bytes: int
    head_seconds: float
    body_seconds: float
    piecewise: frozenset[str] = frozenset()
    """Paths whose bodies may be of any size, and are slow only when nothing comes for `body_seconds`."""


class Connection(asyncio.Protocol):
    """The protocol of one accepted connection. `kept` holds all that are open."""

    transport: asyncio.Transport

    def __init__(self, app: App, bounds: Bounds, kept: set[Connection]) -> None:
        self.congested = False
        self._app = app
        self._bounds = bounds
        self._kept = kept
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._peer: str | None = None
        self._since = self._loop.time()
        """When the state of waiting began which `sweep` judges."""
        self._congested_since = 0.0
        self._uncongested: asyncio.Future[None] | None = None
        self._fresh = True
        """Nothing has come yet."""
        self._deaf = False
        """Nothing more is parsed."""
        self._lingering = False
        self._paused = False
        self._in_head = False
        self._head_bytes = 0
        self._piece = 0
        self._overhead = 0
        self._url = b""
        self._headers: dict[str, str] = {}
        self._upgrading = False
        self._arriving: Exchange | None = None
        self._waiting: list[Exchange] = []
        self.in_hand: Exchange | None = None

    # The transport's events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Idle from the first moment on, until a request has come."""
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0] if isinstance(peer, tuple) else None
        self._kept.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone: what is in hand is told."""
        self._kept.discard(self)
        self._deaf = True
        self._waiting.clear()
        if self._uncongested is not None and not self._uncongested.done():
            self._uncongested.cancel()
        if self.in_hand is not None:
            self.in_hand.leave()
        self._parser = _NO_PARSER
        self._arriving = None

    def data_received(self, data: bytes) -> None:
        """Parses what came, and answers what became whole."""
        if self._deaf:
            return
        self._fresh = False
        continued = self._in_head
        self._piece = len(data)
        arriving = self._arriving
        taken = 0 if arriving is None else arriving.size
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._refuse_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse_malformed(error)
        if self._in_head and continued:
            self._head_bytes += len(data)
            if self._head_bytes > self._bounds.head_bytes:
                self._refuse(_head_too_large())
        elif arriving is not None and arriving is self._arriving:
            self._overhead += len(data) - (arriving.size - taken)
            if self._overhead > self._bounds.body_bytes:
                self._refuse(body_too_large(self._bounds.body_bytes))
        if self._waiting:
            self._advance()

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        self.congested = True
        self._congested_since = self._loop.time()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.congested = False
        if self._uncongested is not None and not self._uncongested.done():
            self._uncongested.set_result(None)
        if self._waiting:
            self._loop.call_soon(self._advance)

    # The parser's events

    def on_message_begin(self) -> None:
        """A new head."""
        if not self._upgrading:
            self._in_head = True
            self._head_bytes = 0
            self._since = self._loop.time()
            self._url = b""
            self._headers = {}

    def on_url(self, url: bytes) -> None:
        """The request's target, or a part of it."""
        if self._in_head:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; those after a body in chunks are nobody's business."""
        if self._in_head:
            key = _NAMES.get(name) or _name(name)
            text = value.decode("latin-1")
            headers = self._headers
            headers[key] = f"{headers[key]}, {text}" if key in headers else text

    def on_headers_complete(self) -> None:
        """The head is whole: a request that waits for its turn. ApiError if it is none."""
        if not self._in_head:
            return
        headers, parser = self._headers, self._parser
        if self._head_bytes + self._piece > self._bounds.head_bytes:
            size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in headers.items())
            if size > self._bounds.head_bytes:
                raise _head_too_large()
        version = parser.get_http_version()
        modern = version == "1.1"
        method = parser.get_method().decode("ascii")
        if not modern and (version != "1.0" or "transfer-encoding" in headers):
            raise _malformed(f"HTTP/{version} is not served here, or not with a transfer-encoding")
        if modern and "," in headers.get("host", ","):
            raise _malformed("expected exactly one Host header")
        if method == "CONNECT":
            raise _malformed("CONNECT is not served here")
        path, query = _target(self._url)
        exchange = Exchange(
            self,
            self._peer,
            method,
            path,
            query,
            headers,
            modern=modern,
            keep_alive=modern and parser.should_keep_alive(),
        )
        self._in_head = False
        self._overhead = 0
        exchange.piecewise = path in self._bounds.piecewise
        if "content-length" in headers:
            exchange.declared = int(headers["content-length"])
            if exchange.declared > self._bounds.body_bytes and not exchange.piecewise:
                exchange.fail(body_too_large(self._bounds.body_bytes))
        exchange.continues = modern and headers.get("expect", "").lower() == "100-continue"
        self._upgrading = parser.should_upgrade()
        self._arriving = exchange
        self._waiting.append(exchange)

    def on_body(self, data: bytes) -> None:
        """A part of the body; none is kept for a request that has been answered or refused already."""
        exchange = self._arriving
        if exchange is None or exchange.complete or exchange.fault is not None:
            return
        if exchange.piecewise:
            self._since = self._loop.time()
            exchange.take(data)
        elif exchange.size + len(data) > self._bounds.body_bytes:
            exchange.fail(body_too_large(self._bounds.body_bytes))
        else:
            exchange.take(data)

    def on_message_complete(self) -> None:
        """The request is whole."""
        exchange = self._arriving
        if exchange is None or self._upgrading:
            return
        self._arriving = None
        exchange.arrive()
        if not exchange.keep_alive:
            self._deaf = True
        if exchange.complete and self.in_hand is None:
            self._rest()

    # Requests that are none

    def _refuse_upgrade(self, rest: bytes) -> None:
        """Answers in HTTP/1.1 as if no other protocol had been offered, which a server may (RFC 9110, section 7.8).

        The parser takes what follows such a head for the other protocol, so that a new one has to read the body.
        """
        exchange = self._arriving
        assert exchange is not None
        self._parser = httptools.HttpRequestParser(self)
        framing = [f"{name}: {value}\r\n" for name, value in exchange.headers.items() if name in _FRAMING]
        try:
            if framing:
                self._parser.feed_data(f"POST / HTTP/1.1\r\n{''.join(framing)}\r\n".encode("latin-1"))
            self._upgrading = False
            if exchange.declared == 0 and "transfer-encoding" not in exchange.headers:
                self.on_message_complete()
            if not self._deaf:
                self._parser.feed_data(rest)
        except httptools.HttpParserUpgrade as upgrade:
            self._refuse_upgrade(rest[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse_malformed(error)

    def _refuse_malformed(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        self._refuse(cause if isinstance(cause, ApiError) else _malformed(str(error)))

    def _refuse(self, fault: ApiError) -> None:
        """What came last is no request, or no more: it is answered in its turn, and nothing after it is read."""
        if self._deaf:
            return
        self._deaf = True
        self._in_head = False
        if self._arriving is None:
            self._arriving = Exchange(self, self._peer, "", "", "", {}, modern=True, keep_alive=False)
            self._waiting.append(self._arriving)
        self._arriving.fail(fault)
        if self._arriving.complete and self.in_hand is None:
            self._linger()

    # Taking turns

    def _advance(self) -> None:
        """Begins with what waits, as long as each is answered at once."""
        while self._waiting and self.in_hand is None and not self.congested and not self._lingering:
            exchange = self.in_hand = self._waiting.pop(0)
            if not exchange.arrived:
                self._since = self._loop.time()
            exchange.task = eager.start(self._app(exchange), self._loop)
        if bool(self._waiting) is not self._paused and not self.transport.is_closing():
            self._paused = not self._paused
            (self.transport.pause_reading if self._paused else self.transport.resume_reading)()

    def ended(self, exchange: Exchange) -> None:
        """The exchange has had all that it will get."""
        self.in_hand = None
        if exchange.complete and exchange.keep_alive:
            if exchange.arrived:
                self._rest()
        elif exchange.arrived or not exchange.complete:
            self._close()
        else:
            self._linger()
        if exchange.task is not None and self._waiting:
            self._loop.call_soon(self._advance)

    def _rest(self) -> None:
        self._since = self._loop.time()

    def _close(self) -> None:
        self._deaf = True
        self._waiting.clear()
        self.transport.close()

    def _linger(self) -> None:
        """Ends our half, and reads on for a while."""
        self._deaf = self._lingering = True
        self._waiting.clear()
        self._since = self._loop.time()
        if not self.transport.is_closing():
            if self._paused:
                self._paused = False
                self.transport.resume_reading()
            self.transport.write_eof()

    async def drained(self) -> None:
        """Waits until the client has caught up."""
        while self.congested and not self.transport.is_closing():
            self._uncongested = self._loop.create_future()
            try:
                await self._uncongested
            finally:
                self._uncongested = None

    # Time

    def sweep(self, now: float) -> None:
        """Ends what has taken too long by `now`, on the loop's clock. To be called every so often."""
        if self.congested and now - self._congested_since >= KEEP_ALIVE_SECONDS:
            self.transport.abort()
            return
        waited = now - self._since
        exchange = self.in_hand
        if exchange is not None:
            if exchange.waits_for_body and waited >= self._bounds.body_seconds:
                self._refuse(_body_late(self._bounds.body_seconds))
        elif self._arriving is not None:
            if waited >= self._bounds.body_seconds:
                self._end()
        elif waited >= self._patience():
            self._end()

    def _patience(self) -> float:
        if self._lingering:
            return _LINGER_SECONDS
        return self._bounds.head_seconds if self._in_head or self._fresh else KEEP_ALIVE_SECONDS

    def _end(self) -> None:
        """Closes it; what a client does not take is not kept for it."""
        if self._lingering or self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self._close()

    def idle_seconds(self) -> float:
        """How long it has had nothing to do; 0 while a request is in hand, or in the kernel and not yet read."""
        if self.in_hand is not None or self._waiting or self._arriving is not None or self._in_head:
            return 0.0
        sock = self.transport.get_extra_info("socket")
        if sock is None or self.transport.is_closing():
            return 0.0
        unread = array.array("i", [0])
        fcntl.ioctl(sock.fileno(), termios.FIONREAD, unread)
        return 0.0 if unread[0] else self._loop.time() - self._since


_NAMES: dict[bytes, str] = {}
_MOST_NAMES, _LONGEST_NAME = 512, 64
_FRAMING = ("content-length", "transfer-encoding")
_NO_PARSER = httptools.HttpRequestParser(None)
"""In place of the parser of a closed connection, which would keep it alive."""


def _name(written: bytes) -> str:
    """A header's name in lower case. Clients write them in few ways, which are remembered."""
    name = written.decode("latin-1").lower()
    if len(_NAMES) < _MOST_NAMES and len(written) <= _LONGEST_NAME:
        _NAMES[written] = name
    return name


def _target(url: bytes) -> tuple[str, str]:
    """Path (decoded) and query of a request's target: `/path?query` or, for proxies, `http://host/path?query`."""
    if not url.startswith(b"/"):
        if url == b"*":
            return "*", ""
        try:
            parsed = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError as error:
            raise _malformed(f"the request's target is no URL: {error}") from error
        url = (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")
    path, _, query = url.decode("latin-1").partition("?")
    return (unquote(path) if "%" in path else path), query


def _malformed(what: str) -> ApiError:
    return ApiError(400, f"The request is malformed: {what}.", code="malformed_request")


def _head_too_large() -> ApiError:
    return ApiError(431, "The request's line and headers are too large.", code="headers_too_large")


def body_too_large(limit: int) -> ApiError:
    """What a body above `limit` bytes is answered."""
    return ApiError(413, f"The body is larger than {limit / 2**20:g} MB.", code="request_too_large")


def _body_late(seconds: float) -> ApiError:
    return ApiError(408, f"The body had not come after {seconds:g} s.", code="request_timeout")
