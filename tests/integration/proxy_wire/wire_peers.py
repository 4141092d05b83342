"""Peers on real sockets that say what a test tells them to say."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Script = Callable[[Reader, Writer], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"


async def request_from(reader: Reader) -> bytes:
    """The next request, head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + (await reader.readexactly(int(lengths[0].split(b":")[1])) if lengths else b"")


def saying(*parts: bytes, times: int = 1_000_000) -> Script:
    """Answers each request with `parts`, up to so many on one connection; then closes."""

    async def script(reader: Reader, writer: Writer) -> None:
        for _ in range(times):
            await request_from(reader)
            for part in parts:
                writer.write(part)
                await writer.drain()

    return script


class Peer:
    """A server; `connections` and `gone` are how many came and how many have ended."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.tls = tls
        self.connections = self.gone = 0
        self.changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, host: str = "127.0.0.1") -> None:
        self.server = await asyncio.start_server(self._serve, host, 0, ssl=self.tls)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        await self._count(connections=1)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self.script(reader, writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        finally:
            writer.transport.abort()
            self._tasks.discard(task)
            await self._count(gone=1)

    async def _count(self, connections: int = 0, gone: int = 0) -> None:
        async with self.changed:
            self.connections += connections
            self.gone += gone
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Waits until `condition` holds; it is looked at when a connection comes or ends."""
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(condition)

    async def stop(self) -> None:
        self.server.close()
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def url(self, path: str = "/v1/x", host: str = "127.0.0.1") -> str:
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{path}"
