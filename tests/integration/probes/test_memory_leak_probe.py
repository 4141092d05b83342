"""The probe memory_leak on a real llm-proxy, and on processes whose agents tell what the test has them tell."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from live_proxy import LiveProxy

from watchdog.clock import FakeClock
from watchdog.core.model import Measurement, Sample
from watchdog.core.trend import Shape
from watchdog.errors import ProbeError
from watchdog.probes import ProbeContext
from watchdog.probes.memory_leak import MemoryLeakProbe, MemoryLeakProbeSettings
from watchdog.system.http import HttpClient

PATIENCE = 60.0
MIB = 1024 * 1024
HOURLY = {"kind": "memory_leak", "service": "shop", "interval": "30s", "window": "1h", "min_window": "30m"}


class Kept(dict[str, Any]):
    """A memory that lasts as long as the test, and as strict about JSON as the store."""

    def put(self, name: str, value: object) -> None:
        self[name] = json.loads(json.dumps(value))


class Agent:
    """A service's memory agent on a socket: what it tells is `figures`."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {
            "pid": os.getpid(), "rss_bytes": 0, "uss_bytes": 0, "anon_bytes": 100 * MIB, "requests": 0,
            "descriptors": 20, "descriptors_limit": 1020, "sockets": 5, "threads": 3, "tasks": 4, "tracing": None,
        }  # fmt: skip

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                body = json.dumps(self.figures).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
                )
                writer.write(body)
                await writer.drain()
        writer.close()


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    made = Agent()
    server = await asyncio.start_unix_server(made.answer, tmp_path / "a.sock")
    yield made
    server.close()


@pytest.fixture
async def shop(tmp_path: Path, agent: Agent) -> AsyncIterator[ProbeContext]:
    client = HttpClient()
    yield ProbeContext("leak", FakeClock(1e9), client, {}, {}, Kept(), agent_sockets={"shop": (tmp_path / "a.sock",)})
    await client.close()


def made(context: ProbeContext, **changes: Any) -> MemoryLeakProbe:
    return MemoryLeakProbe(MemoryLeakProbeSettings.model_validate({**HOURLY, **changes}), context)


def shape_of(measured: Measurement, name: str = "proxywatch_leak_shape", **labels: str) -> str | None:
    found = [dict(one.labels) for one in measured.samples if one.name == name and one.value == 1]
    return next((one["shape"] for one in found if labels.items() <= one.items()), None)


def figure(measured: Measurement, name: str) -> float | None:
    return next((one.value for one in measured.samples if one.name == name), None)


async def lived(
    probe: MemoryLeakProbe, context: ProbeContext, agent: Agent, minutes: int, **each: float
) -> Measurement:
    """So many minutes, in each of which the figures grow by so much."""
    assert isinstance(context.clock, FakeClock)
    start = dict(agent.figures)
    for minute in range(minutes):
        for name, growth in each.items():
            agent.figures[name] = int(start[name] + growth * minute)
        found = await probe.measure()
        context.clock.advance(60)
    return found


async def test_a_leak_is_told_with_its_rates_and_its_end(shop: ProbeContext, agent: Agent) -> None:
    """Bytes an hour, bytes a request, what is left, and which process a repair would be about."""
    found = await lived(made(shop), shop, agent, 55, anon_bytes=MIB, requests=100, descriptors=2)
    assert shape_of(found) == Shape.LEAK
    assert figure(found, "proxywatch_leak_slope_bytes_per_hour") == pytest.approx(60 * MIB, rel=0.02)
    assert figure(found, "proxywatch_leak_bytes_per_request") == pytest.approx(MIB / 100, rel=0.02)
    expected = figure(found, "proxywatch_leak_seconds_to_limit")
    earliest = figure(found, "proxywatch_leak_seconds_to_limit_earliest")
    assert expected is not None
    assert earliest is not None
    assert 0 < earliest <= expected
    assert shape_of(found, "proxywatch_resource_leak_shape", resource="descriptors") == Shape.LEAK
    left = figure(found, "proxywatch_resource_leak_seconds_to_limit")
    assert left == pytest.approx((1020 - 20 - 54 * 2) * 30, rel=0.05)
    assert shape_of(found, "proxywatch_resource_leak_shape", resource="tasks") == Shape.PLATEAU
    assert {("target", "service:shop"), ("worker", "0")} <= set(found.samples[0].labels)
    assert Sample("proxywatch_agent_anon_bytes", 154 * MIB, found.samples[0].labels) in found.samples


async def test_what_stays_is_a_plateau(shop: ProbeContext, agent: Agent) -> None:
    """Without growth there is a shape and no end; before the window is long enough there is no shape."""
    probe = made(shop)
    early = await lived(probe, shop, agent, 20, requests=100)
    assert shape_of(early) is None
    found = await lived(probe, shop, agent, 25, requests=100)
    assert shape_of(found) == Shape.PLATEAU
    assert figure(found, "proxywatch_leak_seconds_to_limit") is None


async def test_a_history_outlives_the_agent_and_not_the_process(shop: ProbeContext, agent: Agent) -> None:
    """Another probe with the same memory goes on where the first one was; another process begins anew."""
    await lived(made(shop), shop, agent, 40, anon_bytes=MIB)
    after = await made(shop).measure()
    assert (figure(after, "proxywatch_leak_window_seconds") or 0) > 1800
    assert shape_of(after) is not None
    agent.figures["pid"] = os.getppid()
    renewed = await made(shop).measure()
    assert figure(renewed, "proxywatch_leak_window_seconds") == 0


async def test_a_traced_process_is_not_looked_at(shop: ProbeContext, agent: Agent) -> None:
    """What the traces take is no growth of the service."""
    probe = made(shop)
    await lived(probe, shop, agent, 40)
    agent.figures["tracing"] = {"frames": 1}
    found = await lived(probe, shop, agent, 10, anon_bytes=20 * MIB)
    assert shape_of(found) == Shape.PLATEAU
    assert figure(found, "proxywatch_leak_window_seconds") == 39 * 60


async def test_an_agent_that_tells_nothing_is_a_failure(shop: ProbeContext, agent: Agent) -> None:
    """Which one, and why; its history waits for it."""
    probe, told = made(shop), agent.figures
    await probe.measure()
    agent.figures = {"error": "no figures"}
    with pytest.raises(ProbeError, match="worker 0: "):
        await probe.measure()
    agent.figures = told
    assert isinstance(shop.clock, FakeClock)
    shop.clock.advance(60)
    assert figure(await probe.measure(), "proxywatch_leak_window_seconds") == 60


async def test_workers_of_a_real_proxy(context: ProbeContext, proxy: LiveProxy) -> None:
    """Before the window is long enough only its length is told; then shape, slope and p; a new process starts anew."""
    leak = made(context, service="proxy", interval="50ms", window="20s", min_window="500ms", timeout="10s")
    first = await leak.measure()
    assert {one.name for one in first.samples} == {"proxywatch_leak_window_seconds", "proxywatch_agent_anon_bytes"}
    assert {dict(one.labels)["target"] for one in first.samples} == {"worker:proxy/0", "worker:proxy/1"}
    async with asyncio.timeout(PATIENCE):
        while figure(found := await leak.measure(), "proxywatch_leak_p_value") is None:
            await asyncio.sleep(0.05)
    assert shape_of(found, worker="1") not in (None, Shape.LEAK)
    victim = await proxy.pid(0)
    os.kill(victim, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        while (now := (await proxy.status()).workers[0]).state != "serving" or now.pid == victim:
            await asyncio.sleep(0.05)
    after = await leak.measure()
    windows = {dict(one.labels)["worker"]: one.value for one in after.samples if one.name.endswith("_window_seconds")}
    assert windows["0"] == 0
    assert windows["1"] > 0.5
