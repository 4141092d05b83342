"""Demo upstreams as processes, and gateways in front of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import plain_http
import pytest

from proxy.call import Operation
from proxy.clock import SystemClock
from proxy.gateway import Gateway, Reply
from proxy.metrics import Metrics
from proxy.settings import Settings


class Demo:
    """One demo upstream."""

    def __init__(self, name: str) -> None:
        self.name = name
        program = f"from proxy.demo.server import run; run({name!r}, 0)"
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

    def end(self) -> int:
        self.client.close()
        self.process.terminate()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(10)


@pytest.fixture(scope="session")
def _demos() -> Iterator[tuple[Demo, Demo]]:
    demos = Demo("alpha"), Demo("beta")
    yield demos
    for demo in demos:
        demo.end()


@pytest.fixture
def alpha(_demos: tuple[Demo, Demo]) -> Demo:
    _demos[0].behave()
    return _demos[0]


@pytest.fixture
def beta(_demos: tuple[Demo, Demo]) -> Demo:
    _demos[1].behave()
    return _demos[1]


@pytest.fixture
def make_demo() -> Iterator[Callable[[str], Demo]]:
    demos: list[Demo] = []

    def make(name: str) -> Demo:
        demos.append(Demo(name))
        return demos[-1]

    yield make
    for demo in demos:
        demo.end()


MakeGateway = Callable[..., Any]


@pytest.fixture
async def make_gateway(alpha: Demo, beta: Demo, tmp_path: Path) -> AsyncIterator[MakeGateway]:
    """Starts a gateway over alpha and beta with limits short enough to be waited for."""
    gateways: list[Gateway] = []

    async def make(**changes: Any) -> Gateway:
        wanted: dict[str, Any] = {
            "run_dir": tmp_path / "run",
            "state_dir": tmp_path / "state",
            "providers": [{"name": demo.name, "kind": "local", "port": demo.port} for demo in (alpha, beta)],
            "timeouts": {"connect": "2s", "first_byte": "1s", "answer": "1s", "idle": "1s", "total": "20s"},
            "breaker": {"cooldown": "200ms", "cooldown_max": "400ms"},
            "retry": {"rounds": 0},
        }
        settings = Settings.model_validate(wanted | changes)
        metrics = Metrics(tmp_path / "run" / "metrics", f"test-{len(gateways)}")
        gateway = Gateway(settings, metrics, SystemClock())
        await gateway.start()
        gateways.append(gateway)
        return gateway

    yield make
    for gateway in gateways:
        await gateway.close()


def body(text: str = "hello", **fields: Any) -> bytes:
    """A chat completion request."""
    return orjson.dumps({"model": "demo-small", "messages": [{"role": "user", "content": text}], **fields})


class Ask:
    """Sends requests to a gateway as the shell does."""

    async def whole(self, gateway: Gateway, text: str = "hello", caller: str = "me", **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await gateway.answer(Operation.CHAT, body(text), named, caller, "req-1")

    async def stream(self, gateway: Gateway, text: str = "hello", **fields: Any) -> tuple[Reply, bytes]:
        reply = await gateway.answer(Operation.CHAT, body(text, stream=True, **fields), {}, "me", "req-1")
        if isinstance(reply.body, bytes):
            return reply, reply.body
        received = b""
        try:
            async for part in reply.body:
                received += part
        finally:
            await reply.body.aclose()  # type: ignore[attr-defined]
        return reply, received


@pytest.fixture
def ask() -> Ask:
    return Ask()


@pytest.fixture
def until() -> Callable[..., Any]:
    """Polls until a condition holds; fails after a deadline."""

    async def wait(condition: Callable[[], bool], seconds: float = 45.0) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, "the condition never held"
            await asyncio.sleep(0.02)

    return wait
