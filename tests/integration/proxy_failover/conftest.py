"""Scripted providers, gateways in front of them with limits short enough to be waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

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


@pytest.fixture
async def gateway_of(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Gateway]]]:
    """Starts a gateway over providers (upstreams, or their sections); settings may be given besides."""
    started: list[Gateway] = []

    async def start(*providers: Any, clock: Clock | None = None, **changes: Any) -> Gateway:
        sections = [one if isinstance(one, dict) else provider(one) for one in providers]
        wanted: dict[str, Any] = {
            "run_dir": tmp_path / "run",
            "state_dir": tmp_path / "state",
            "providers": sections,
            "cache": {"enabled": False},
            "timeouts": {"connect": "5s", "first_byte": "1s", "answer": "1s", "idle": "1s", "total": "20s"},
            "retry": {"pause_initial": "20ms", "pause_max": "40ms"},
            "breaker": {"cooldown": "100ms", "cooldown_max": "200ms"},
        }
        settings = Settings.model_validate(wanted | changes)
        metrics = Metrics(tmp_path / "run" / "metrics", f"test-{len(started)}")
        gateway = Gateway(settings, metrics, clock or SystemClock())
        await gateway.start()
        started.append(gateway)
        return gateway

    yield start
    for gateway in started:
        await gateway.close()
