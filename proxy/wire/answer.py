"""A provider's answer as it comes: the parser tells it what it finds, and whoever asked waits for it and reads it."""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import httptools

from proxy.routing.outcome import Fault
from proxy.wire.decoding import Inflater, inflater
from proxy.wire.errors import UpstreamError
from proxy.wire.headers import Headers

MAX_ANSWER_BYTES = 64 * 1024 * 1024
_NO_BODY = frozenset({204, 304})


class Line(Protocol):
    """The connection that an answer comes on."""

    def resume(self) -> None:
        """Goes on reading after unread bytes were too many."""

    def abort(self) -> None:
        """Closes at once."""


class Answer:
    """Whoever holds it must `close` it, or read it to its end. One reader at a time."""

    __slots__ = (
        "_error",
        "_inflater",
        "_line",
        "_loop",
        "_parser",
        "_parts",
        "_raw",
        "_waiter",
        "_whole",
        "ended",
        "headers",
        "keep_alive",
        "on_header",
        "received",
        "status",
        "surplus",
        "unread",
        "until",
        "until_close",
    )

    def __init__(self, line: Line, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        """0 until the headers have come."""
        self.headers: Mapping[str, str] = {}
        self.ended = False
        """Whether the last byte has come. Some may still be unread."""
        self.keep_alive = False
        self.surplus = False
        """Whether more came than one answer."""
        self.received = self.unread = 0
        """Bytes of the body so far, and how many of them wait for a reader."""
        self.until = math.inf
        """On the loop's clock: what has not come by then fails with TimeoutError. May be changed at any time."""
        self.until_close = False
        self._line: Line | None = line
        self._loop = loop
        self._raw: dict[bytes, bytes] = {}
        self.on_header = self._raw.setdefault  # not a method: it is called thirty times per answer
        self._parser: Any = httptools.HttpResponseParser(self)  # until the end: it knows this answer, too
        self._parts: list[bytes] = []
        self._inflater: Inflater | None = None
        self._error: UpstreamError | TimeoutError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._whole = False

    # --- for whoever asked ----------------------------------------------------------------------------------------

    async def begun(self) -> None:
        """Waits for the headers. UpstreamError, TimeoutError."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._more()

    async def read(self) -> bytes:
        """The rest of the body. UpstreamError if it is cut or too large; TimeoutError."""
        self._whole = True  # there is no need to wake before all has come
        parts: list[bytes] = []
        size = 0
        while part := await self.read_some():
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                self.close()
                raise UpstreamError(Fault.MALFORMED, f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read_some(self) -> bytes:
        """What has come since, at least a byte; empty at the end. UpstreamError if the body is cut; TimeoutError.

        Cancelling a wait closes the connection.
        """
        while True:
            if self._inflater is not None:
                if part := self._inflate():
                    return part
            elif self._parts:
                return self._take()
            if not self._parts:
                if self._error is not None:
                    raise self._error
                if self.ended:
                    return b""
                await self._more()

    def close(self) -> None:
        """Closes the connection at once, unless the answer has ended, in which case the pool has it back already."""
        if self._line is not None:
            line = self._line
            self.fail(UpstreamError(Fault.NETWORK, "the answer was left in its middle"))
            line.abort()

    async def _more(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self._waiter = None
            self.close()
            raise
        self._waiter = None

    def _take(self) -> bytes:
        parts, self._parts = self._parts, []
        self.unread = 0
        if self._line is not None:
            self._line.resume()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _inflate(self) -> bytes:
        """The next decoded part, or nothing yet. UpstreamError."""
        coded = self._inflater
        assert coded is not None
        try:
            while coded.pending or self._parts:
                if part := coded.decode(b"" if coded.pending else self._take()):
                    return part
        except zlib.error as error:
            self.close()
            raise UpstreamError(Fault.MALFORMED, f"the answer cannot be decoded: {error}") from error
        if self.ended and self.received and not coded.complete:
            raise UpstreamError(Fault.MALFORMED, "the answer cannot be decoded: its coded data is cut")
        return b""

    # --- what the parser finds ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a message: of this answer, of one before it with a status of 1xx, or of one too many."""
        if self.status:
            self.surplus = True

    def on_headers_complete(self) -> None:
        """The head of a message."""
        if self.status or self._parser is None:
            return
        status = self._parser.get_status_code()
        if not 200 <= status < 600:
            self._raw.clear()
            if not 100 <= status < 200 or status == 101:
                self.fail(UpstreamError(Fault.MALFORMED, f"the answer is not HTTP: its status is {status}"))
            return
        raw = {name.lower(): value for name, value in self._raw.items()}
        self.status = status
        self.headers = Headers(raw)
        if b"content-length" not in raw and status not in _NO_BODY:
            coding = raw.get(b"transfer-encoding")
            self.until_close = coding is None or not coding.lower().endswith(b"chunked")
        if b"content-encoding" in raw:
            self._inflater = inflater(self.headers["content-encoding"])

    def on_body(self, part: bytes) -> None:
        """A part of the body."""
        self._parts.append(part)
        self.unread += len(part)
        self.received += len(part)

    def on_message_complete(self) -> None:
        """The end of a message."""
        if self.status and not self.ended:
            self.end(keep_alive=self._parser.should_keep_alive())

    # --- for the connection ---------------------------------------------------------------------------------------

    @property
    def feed(self) -> Callable[[bytes], None]:
        """Takes the next bytes from the connection. httptools' errors. To be asked for once, at the begin."""
        assert self._parser is not None
        return cast("Callable[[bytes], None]", self._parser.feed_data)

    def end(self, *, keep_alive: bool) -> None:
        """The last byte has come."""
        self.ended = True
        self.keep_alive = keep_alive
        self._line = self._parser = None

    def fail(self, error: UpstreamError | TimeoutError) -> None:
        """Nothing more will come; does nothing if the answer has ended or failed."""
        if self._line is not None:
            self._error = error
            self._line = self._parser = None
            self.wake()

    @property
    def failed(self) -> bool:
        """Whether nothing more will be taken."""
        return self._error is not None

    def wake(self, *, full: bool = False) -> None:
        """Something has come. Who wants the whole answer sleeps on until it has ended or there is no room for more."""
        if self._whole and not (self.ended or full or self._error is not None):
            return
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
