"""Providers on real sockets whose streams come in scripted steps, relays before them, and a demo upstream."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Literal

import orjson
import plain_http
import pytest

from proxy.call import Call, Operation
from proxy.dialects.contract import Dialect, Sent, Whole
from proxy.dialects.registry import translation
from proxy.routing.outcome import Failure
from proxy.streams.contract import Ending, OpenStream, Resumed, Totals
from proxy.streams.opening import open_stream
from proxy.streams.relay import Limits, Relay
from proxy.upstream import Upstream

Step = bytes | float | Literal["cut", "hold", "end"]
"""Bytes to send, seconds to wait, a reset, a wait until the client has gone, or the clean end of the body."""


class Provider:
    """A server that answers each request with the next list of steps."""

    def __init__(self) -> None:
        self.scripts: list[list[Step]] = []
        self.connections = 0
        self.gone = asyncio.Event()
        """Set when a client has closed a connection while the script held it."""
        self.written = 0
        """Bytes of the present answer that the client's side has taken."""

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1/chat/completions"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    pass
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for step in self.scripts.pop(0):
            match step:
                case bytes():
                    writer.write(b"%x\r\n%b\r\n" % (len(step), step))
                    await writer.drain()
                    self.written += len(step)
                case "cut":
                    return False
                case "hold":
                    await reader.read(1)
                    self.gone.set()
                    return False
                case "end":
                    writer.write(b"0\r\n\r\n")
                    return True
                case seconds:
                    await asyncio.sleep(float(seconds))
        return False


class Streams:
    """Asks the provider and relays what it says."""

    def __init__(self, provider: Provider, upstream: Upstream) -> None:
        self.provider = provider
        self.upstream = upstream
        self.prepared = upstream.prepare(provider.url, ())
        self.totals: list[Totals] = []
        self.ends: list[Ending] = []
        self.wholes: list[Whole] = []
        self.resumed = 0

    def call(self, **fields: Any) -> Call:
        whole = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "q"}], **fields}
        return Call(Operation.CHAT, orjson.dumps(whole), whole, "m", True, "req-1", "me")

    async def opened(self, call: Call, *steps: Step) -> OpenStream | Failure:
        """The provider's stream of these steps."""
        self.provider.scripts.append(list(steps))
        answer = await self.upstream.post(self.prepared, (), call.body)
        spoken = translation(Operation.CHAT, Dialect.OPENAI)
        assert spoken is not None
        outcome = await open_stream(answer, spoken.decoder(call))
        if isinstance(outcome, OpenStream):
            outcome.at_end = lambda ending, message, malformed: self.ends.append(ending)
        else:
            answer.close()
        return outcome

    async def relay(
        self, *steps: Step, idle: float = 0.4, then: list[list[Step]] | None = None, **fields: Any
    ) -> Relay:
        """A relay of these steps, continued by restarts of the lists in `then`."""
        call = self.call(**fields)
        left = list(then or [])

        async def resume(_sent: Sent, _ending: Ending, _message: str) -> Resumed | None:
            while left:
                stream = await self.opened(call, *left.pop(0))
                self.resumed += 1
                if isinstance(stream, OpenStream):
                    return Resumed(stream, "restart")
            return None

        stream = await self.opened(call, *steps)
        assert isinstance(stream, OpenStream)
        spoken = translation(Operation.CHAT, Dialect.OPENAI)
        assert spoken is not None
        limits = Limits(idle, asyncio.get_running_loop().time() + 20)
        relay = Relay(
            stream,
            spoken.encoder(call),
            limits,
            self.totals.append,
            same=True,
            bare_usage=call.usage,
            resume=None if then is None else resume,
        )
        relay.keep(self.wholes.append)
        return relay

    async def received(self, *steps: Step, **how: Any) -> bytes:
        """All that the caller gets of these steps."""
        relay = await self.relay(*steps, **how)
        parts = [part async for part in relay]
        await relay.aclose()
        return b"".join(parts)


@pytest.fixture
async def streams() -> AsyncIterator[Streams]:
    """A provider and what asks it."""
    provider, upstream = Provider(), Upstream(2.0)
    await provider.start()
    yield Streams(provider, upstream)
    await upstream.close()
    provider.server.close()
    await asyncio.wait_for(provider.server.wait_closed(), 45)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Polls until a condition holds; fails after a deadline."""

    async def wait(condition: Callable[[], bool], seconds: float = 45.0) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, "the condition never held"
            await asyncio.sleep(0.01)

    return wait


class Demo:
    """One demo upstream as a process."""

    def __init__(self) -> None:
        program = "from proxy.demo.server import run; run('demo', 0)"
        self.process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.client = plain_http.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=45)

    def behave(self, mode: str = "ok", **how: Any) -> None:
        answer = self.client.post("/_demo/behaviour", json={"mode": mode, **how})
        assert answer.status_code == 200, answer.text

    def seen(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get("/_demo/behaviour").json()
        return answer

    def end(self) -> None:
        self.client.close()
        self.process.terminate()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait(10)


@pytest.fixture(scope="session")
def make_demo() -> Iterator[Callable[[], Demo]]:
    """Starts demo upstreams."""
    demos: list[Demo] = []

    def make() -> Demo:
        demos.append(Demo())
        return demos[-1]

    yield make
    for demo in demos:
        demo.end()


@pytest.fixture(scope="session")
def _demo(make_demo: Callable[[], Demo]) -> Demo:
    return make_demo()


@pytest.fixture
def demo(_demo: Demo) -> Demo:
    _demo.behave()
    return _demo
