"""Scripted providers, gateways in front of them with limits short enough to be waited for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from failover_callers import provider
from scripted_upstream import ScriptedUpstream

from proxy.clock import Clock, SystemClock
from proxy.gateway import Gateway
from proxy.metrics import Metrics
from proxy.settings import Settings


@pytest.fixture
async def upstream() -> AsyncIterator[Callable[[str], Awaitable[ScriptedUpstream]]]:
    """Starts a provider."""
    started: list[ScriptedUpstream] = []

    async def start(name: str) -> ScriptedUpstream:
        started.append(ScriptedUpstream(name))
        await started[-1].start()
        return started[-1]

    yield start
    for one in started:
        await one.stop()


@pytest.fixture
async def alpha(upstream: Any) -> ScriptedUpstream:
    started: ScriptedUpstream = await upstream("alpha")
    return started


@pytest.fixture
async def beta(upstream: Any) -> ScriptedUpstream:
    started: ScriptedUpstream = await upstream("beta")
    return started


def document(place: Path, providers: tuple[Any, ...]) -> dict[str, Any]:
    """A configuration over providers (upstreams, or their sections)."""
    return {
        "run_dir": str(place / "run"),
        "state_dir": str(place / "state"),
        "providers": [one if isinstance(one, dict) else provider(one) for one in providers],
        "cache": {"enabled": False},
        "timeouts": {"connect": "5s", "first_byte": "1s", "answer": "1s", "idle": "1s", "total": "20s"},
        "retry": {"pause_initial": "20ms", "pause_max": "40ms"},
        "breaker": {"cooldown": "100ms", "cooldown_max": "200ms"},
    }


@pytest.fixture
async def gateway_of(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Gateway]]]:
    """Starts a gateway over providers; settings may be given besides."""
    started: list[Gateway] = []

    async def start(*providers: Any, clock: Clock | None = None, **changes: Any) -> Gateway:
        settings = Settings.model_validate(document(tmp_path, providers) | changes)
        metrics = Metrics(tmp_path / "run" / "metrics", f"test-{len(started)}")
        gateway = Gateway(settings, metrics, clock or SystemClock())
        await gateway.start()
        started.append(gateway)
        return gateway

    yield start
    for gateway in started:
        await gateway.close()


class Worker:
    """A gateway in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def read(self) -> Any:
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            return orjson.loads(await self.process.stdout.readline())

    async def order(self, times: int, **fields: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(orjson.dumps({"times": times, "fields": fields}) + b"\n")
        return await self.read()

    async def ask(self, times: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """So many requests at once."""
        heard: list[dict[str, Any]] = await self.order(times, **fields)
        return heard

    async def health(self) -> dict[str, Any]:
        shown: dict[str, Any] = await self.order(0)
        return shown


@pytest.fixture
async def worker_of(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Worker]]]:
    """Starts workers that share their state."""
    started: list[Worker] = []

    async def start(*providers: Any, **changes: Any) -> Worker:
        settings = orjson.dumps(document(tmp_path, providers) | changes)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("failover_worker.py")),
            settings,
            f"worker-{len(started)}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        started.append(Worker(process))
        assert await started[-1].read() == {"ready": True}
        return started[-1]

    yield start
    for worker in started:
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        await worker.process.wait()
