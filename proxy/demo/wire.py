"""The demo upstream's side of one HTTP exchange."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON: Headers = [(b"content-type", b"application/json")]
_EVENTS: Headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


@dataclass(slots=True)
class Exchange:
    """One request being answered."""

    send: Send
    gone: asyncio.Event
    """Set when the client has closed its connection."""

    async def pause(self, seconds: float | None) -> bool:
        """Waits (None: for ever) unless the client goes away first; says whether it has gone."""
        if seconds == 0:
            await asyncio.sleep(0)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.gone.wait(), seconds)
        return self.gone.is_set()

    async def begin_events(self) -> None:
        """The head of a stream."""
        await self.send({"type": "http.response.start", "status": 200, "headers": _EVENTS})

    async def say(self, data: bytes) -> None:
        """A piece of a stream."""
        if data:
            await self.send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        """The clean end of a stream."""
        await self.send({"type": "http.response.body", "body": b""})

    async def half(self, body: bytes) -> None:
        """The first half of an answer whose other half is promised."""
        headers = [*JSON, (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.say(body[: len(body) // 2])

    def reset(self) -> None:
        """Ends the connection with a reset instead of an answer. ASGI knows no way to do that; uvicorn's `send` is a
        method of the cycle that holds the transport."""
        transport: asyncio.Transport = self.send.__self__.transport  # type: ignore[attr-defined]
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


@contextlib.asynccontextmanager
async def exchange_of(receive: Receive, send: Send) -> AsyncIterator[Exchange]:
    """Watches for the client's leave; the request's body must have been read."""
    gone = asyncio.Event()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    watcher = asyncio.create_task(watch())
    try:
        yield Exchange(send, gone)
    finally:
        watcher.cancel()


async def respond(send: Send, status: int, body: Message | bytes, extra: Headers | None = None) -> None:
    """A whole answer in JSON."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    headers = [*JSON, (b"content-length", b"%d" % len(data)), *(extra or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def read(receive: Receive) -> bytes:
    """The request's body."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
