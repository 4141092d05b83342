"""A real llm-proxy with two workers before an upstream that this process plays and counts."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "proxy_shell"))

from proxy_service import Service, make_service


class Upstream:
    """Answers chat completions, whole or as a stream, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.delay = 0.0
        self.status = 200
        self.closed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
                )
                asked = orjson.loads(await reader.readexactly(length)) if length else {}
                if not head.startswith(b"POST"):
                    self._whole(writer, {"object": "list", "data": []})
                    continue
                self.asked.append(asked)
                number = len(self.asked)
                delay = asyncio.create_task(asyncio.sleep(self.delay))
                gone = asyncio.create_task(reader.read(1))
                await asyncio.wait({delay, gone}, return_when=asyncio.FIRST_COMPLETED)
                delay.cancel()
                if gone.done():
                    self.closed += 1
                    break
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await gone
                (self._stream if asked.get("stream") else self._whole)(writer, self._answer(number))
                await writer.drain()
        writer.close()

    def _answer(self, number: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": f"answer {number}"}
        return {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        }

    def _whole(self, writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
        body = orjson.dumps(answer if self.status == 200 else {"error": {"message": "no", "type": "x", "code": None}})
        head = f"HTTP/1.1 {self.status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    def _stream(self, writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
        words = answer["choices"][0]["message"]["content"].split(" ")
        deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant"}, None)]
        deltas += [({"content": word if at == 0 else f" {word}"}, None) for at, word in enumerate(words)]
        head = {"id": answer["id"], "object": "chat.completion.chunk", "created": 1, "model": "m"}
        events = [
            head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            for delta, finish in [*deltas, ({}, "stop")]
        ]
        body = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"
        head_lines = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head_lines.encode() + body)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Any
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return orjson.loads(self.body)


class Place:
    """The service, its upstream, and clients that open a connection for each request, so that both workers are met."""

    def __init__(self, service: Service, upstream: Upstream, url: str) -> None:
        self.service = service
        self.upstream = upstream
        self.url = url

    async def call(self, method: str, path: str, headers: dict[str, str], **how: Any) -> Answer:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session,
            session.request(method, f"{self.url}{path}", headers=headers, **how) as response,
        ):
            return Answer(response.status, response.headers, await response.read())

    async def ask(self, text: str = "hello", *, stream: bool = False, **headers: str) -> Answer:
        body = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call("POST", "/v1/chat/completions", named, json=body)

    async def admin(self, method: str, path: str, **how: Any) -> Answer:
        return await self.call(method, path, self.service.admin, **how)

    async def shows(self, path: str) -> Any:
        answer = await self.admin("GET", path)
        assert answer.status == 200, answer.text
        return answer.json()

    async def outcomes(self, number: int, text: str = "hello") -> list[str]:
        """What many connections are told, so that both workers are surely among those that answer."""
        return [(await self.ask(text)).headers["x-cache"] for _ in range(number)]

    async def until(self, holds: Any, seconds: float = 45.0) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not await holds():
            assert asyncio.get_running_loop().time() < deadline, "it never came to hold"
            await asyncio.sleep(0.05)


@contextlib.contextmanager
def upstream_of(upstream: Upstream) -> Iterator[int]:
    """The upstream's port, while it serves in a thread of its own."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    ports: list[int] = []
    handlers: set[asyncio.Task[None]] = set()

    async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        await upstream.serve(reader, writer)
        handlers.discard(task)

    async def serve() -> None:
        server = await asyncio.start_server(met, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await over.wait()
        server.close()
        await asyncio.gather(*handlers)

    over = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait(10)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(20)
        loop.close()


@contextlib.contextmanager
def running(**settings: Any) -> Iterator[Place]:
    """The service with these settings, until the block ends."""
    upstream = Upstream()
    with tempfile.TemporaryDirectory(prefix="lp-") as name, upstream_of(upstream) as port:
        service = make_service(Path(name))
        key = Path(name) / "provider.key"
        key.write_text("sk-test")
        key.chmod(0o600)
        provider = {
            "name": "own",
            "kind": "openai",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "api_key_file": str(key),
        }
        service.settings |= {"providers": [provider], **settings}
        try:
            service.start()
            yield Place(service, upstream, service.url(""))
        finally:
            service.end()


@pytest.fixture(scope="module")
def served() -> Iterator[Place]:
    """One service for the tests of a module."""
    with running(retry={"rounds": 0}) as made:
        yield made


@pytest.fixture
async def place(served: Place) -> Place:
    """It, with an empty cache and a well-behaved upstream."""
    await served.admin("DELETE", "/api/cache")
    served.upstream.__init__()  # type: ignore[misc]
    return served
