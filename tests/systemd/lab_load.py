"""Runs in the lab: asks the proxy at a steady rate for some seconds and prints, as JSON, how it went.

Most requests come on a connection of their own, begun whether or not the earlier ones are answered; some clients keep
theirs and ask again and again. A connection that the server closed after an answer is opened anew, as any client does;
one that breaks without an answer is a failure.
"""

from __future__ import annotations

import asyncio
import collections
import json
import sys
import time

PORT, RATE, SECONDS, KEEPING, KEY = 8000, int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
PATIENCE_SECONDS = 30.0
BODY = json.dumps({"model": "demo-small", "messages": [{"role": "user", "content": "hello"}]}).encode()
took: list[float] = []
seen: collections.Counter[str] = collections.Counter()

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def request(connection: str) -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\nConnection: {connection}\r\n\r\n"
    return head.encode() + BODY


async def ask(streams: Streams, connection: str) -> bool:
    """Asks once; whether the connection may be used again."""
    reader, writer = streams
    writer.write(request(connection))
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length:")[1].split("\r\n")[0])
    await reader.readexactly(length)
    seen[head.split()[1]] += 1
    return "connection: close" not in head


async def timed(work: asyncio.Task[bool]) -> bool:
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await work
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        seen[f"failed: {type(error).__name__}: {error}"] += 1
        return False
    finally:
        took.append(time.monotonic() - began)


async def alone() -> bool:
    streams = await asyncio.open_connection("127.0.0.1", PORT)
    try:
        return await ask(streams, "close")
    finally:
        streams[1].close()


async def keeping(until: float) -> None:
    streams: Streams | None = None
    while time.monotonic() < until:
        if streams is None:
            streams = await asyncio.open_connection("127.0.0.1", PORT)
        if not await timed(asyncio.ensure_future(ask(streams, "keep-alive"))):
            streams[1].close()
            streams = None
        await asyncio.sleep(0.05)
    if streams is not None:
        streams[1].close()


async def main() -> None:
    began = time.monotonic()
    work = [asyncio.create_task(keeping(began + SECONDS)) for _ in range(KEEPING)]
    for number in range(int(RATE * SECONDS)):
        await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        work.append(asyncio.create_task(timed(asyncio.ensure_future(alone()))))
    await asyncio.gather(*work)
    print(json.dumps({"seen": seen, "slowest": max(took), "seconds": time.monotonic() - began}))


asyncio.run(main())
