"""The only way to providers: HTTP/1.1 on kept-alive connections, one pool per worker.

What can go wrong on the way becomes an `UpstreamError` with its class; statuses are not judged here.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Iterable

from proxy.wire.answer import Answer
from proxy.wire.dialing import Dialer, verifying_context
from proxy.wire.errors import ClosedEarlyError, UpstreamError
from proxy.wire.origin import Origin
from proxy.wire.request import Prepared, address_of, fixed_lines, lines

__all__ = ["Answer", "Prepared", "Upstream", "UpstreamError"]

_QUICK_RETRY_SECONDS = 1.0
_SWEEP_SECONDS = 5.0
_WATCH_SECONDS = 0.1


class Upstream:
    """The pool. To be made inside the running event loop.

    Connecting, DNS and TLS included, may take `connect_seconds`. `tls` verifies the providers; None: against the
    system's authorities.
    """

    def __init__(self, connect_seconds: float, tls: ssl.SSLContext | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._dialer = Dialer(connect_seconds)
        self._tls = tls
        self._origins: dict[tuple[bool, str, int], Origin] = {}
        self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        self._watch: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        """Closes every connection."""
        self._sweeper.cancel()
        if self._watch is not None:
            self._watch.cancel()
        await self._dialer.close()
        for origin in self._origins.values():
            await origin.close()

    @property
    def connections(self) -> int:
        """How many are open, idle or not."""
        return sum(len(origin.open) for origin in self._origins.values())

    def prepare(self, url: str, headers: Iterable[tuple[str, str]]) -> Prepared:
        """Does once what needs to be done once. `headers` come after `accept`, `accept-encoding`, `content-type` (JSON)
        and `user-agent`, and replace those of the same name. ValueError if a header or the URL is none."""
        address = address_of(url)
        key = (address.tls, address.host, address.port)
        origin = self._origins.get(key)
        if origin is None:
            if address.tls and self._tls is None:
                self._tls = verifying_context()
            origin = self._origins[key] = Origin(address.host, address.port, self._tls if address.tls else None)
        return Prepared(origin, address.target.encode("ascii"), fixed_lines(address, headers))

    async def post(
        self, request: Prepared, headers: Iterable[tuple[str, str]], body: bytes, until: float = math.inf
    ) -> Answer:
        """Sends `body` with `headers` beside the prepared ones; returns when the answer's headers have come.

        UpstreamError; ValueError if a header has a line break in it; TimeoutError at `until` (the loop's clock, to a
        tenth of a second), which goes on to hold for the answer's reading, or of the caller's own. A kept-alive
        connection that ends at once and before any answer is replaced by a new one: it may have been about to end just
        as it was taken. Nothing else is ever sent twice.
        """
        head = b"POST %b HTTP/1.1\r\n%b%bcontent-length: %d\r\n\r\n"
        head %= (request.target, request.headers, lines(headers), len(body))
        return await self._exchange(request.origin, head, body, until)

    async def get(self, request: Prepared, headers: Iterable[tuple[str, str]] = ()) -> Answer:
        """Like `post`, without a body."""
        head = b"GET %b HTTP/1.1\r\n%b%b\r\n" % (request.target, request.headers, lines(headers))
        return await self._exchange(request.origin, head, b"", math.inf)

    async def _exchange(self, origin: Origin, head: bytes, body: bytes, until: float) -> Answer:
        if self._watch is None and until != math.inf:
            self._watch = self._loop.call_later(_WATCH_SECONDS, self._look)
        began = self._loop.time()
        connection = origin.take(began)
        if connection is not None:
            answer = connection.send(head, body)
            answer.until = until
            try:
                await answer.begun()
            except ClosedEarlyError:
                if self._loop.time() - began >= _QUICK_RETRY_SECONDS:
                    raise
            else:
                return answer
        async with asyncio.timeout_at(None if until == math.inf else until):
            connection = await self._dialer.dial(origin)
        answer = connection.send(head, body)
        answer.until = until
        await answer.begun()
        return answer

    def _look(self) -> None:
        """One look at all that is under way costs less than a timer for each."""
        now = self._loop.time()
        limited = [origin.expire(now) for origin in self._origins.values()]
        self._watch = self._loop.call_later(_WATCH_SECONDS, self._look) if any(limited) else None

    def _sweep(self) -> None:
        now = self._loop.time()
        for origin in self._origins.values():
            origin.sweep(now)
        self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)
