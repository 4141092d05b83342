"""A worker that leaks for real is noticed by its trend and replaced without a person."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
from quick_playbooks import acted, done, hasten
from world import World, eventually, story

QUICK: dict[str, Any] = {
    "probes": {"leak": {"interval": "100ms", "window": "60s", "min_window": "3s"}},
    "guards": {"backoff_initial": "1s"},
}


async def drip(world: World) -> None:
    """One MiB after another, kept for ever."""
    headers = {"authorization": f"Bearer {world.admin_key}"}
    url = f"http://127.0.0.1:{world.port}/debug/fault"
    async with aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.post(url, headers=headers, json={"kind": "leak", "mb": 1}) as answer:
                    await answer.read()
            await asyncio.sleep(0.1)


async def test_a_leaking_worker_is_replaced(world: World) -> None:
    """Collecting garbage does not help a real leak, so the worker gives way to a fresh one; callers notice nothing."""
    world.configure(proxy={"faults": True, "workers": 1}, watch=QUICK, routes=world.inbox.routes)
    hasten(world, "rules/memory.yaml", {">= 1800": ">= 3", "for: 5m": "for: 300ms"})
    hasten(world, "playbooks/stop-leak.yaml", {"settle: 5s, hold: 5s, within: 1m": "settle: 1s, hold: 1s, within: 3s"})
    await world.start()
    await eventually("the worker serves", world.all_serve, 15)
    (before,) = await world.workers()
    async with world.load(5) as calls:
        leaking = asyncio.create_task(drip(world))
        try:
            found = await acted(world, "worker:llm-proxy/0", "recycle_worker", 60)
        finally:
            leaking.cancel()
        await world.incident("worker:llm-proxy/0", "resolved", 30)
    assert found["alertnames"] == ["MemoryLeakSuspected"]
    assert done(found, "stop-leak") == ["collect_garbage", "recycle_worker"], story(found)
    (after,) = await world.workers()
    assert after["pid"] != before["pid"]
    assert calls.failures == []
    assert world.inbox.messages == []
