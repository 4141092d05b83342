"""The cache driven over its warning and critical marks by real answers."""

from __future__ import annotations

import asyncio
import itertools

import aiohttp
from world import World, eventually, kinds, story

LIMIT_MB = 4
FILLING = {"cache": {"max_size_mb": LIMIT_MB, "eviction_threshold": 1.0, "max_entry_kb": 256}}
QUICK = {"probes": {"cache": {"interval": "500ms"}}, "guards": {"backoff_initial": "1s"}}


async def fill(world: World, stop: asyncio.Event, numbers: itertools.count[int], kilobytes: int = 32) -> int:
    """Puts a new answer into the cache again and again; returns how many were answered."""
    answered = 0
    url = f"http://127.0.0.1:{world.port}/v1/chat/completions"
    async with aiohttp.ClientSession() as session:
        while not stop.is_set():
            text = f"{next(numbers)} " + "x" * 1024 * kilobytes
            body = {"model": "demo-small", "messages": [{"role": "user", "content": text}]}
            async with session.post(url, json=body) as response:
                assert response.status == 200, await response.text()
                await response.read()
                answered += 1
    return answered


async def test_full_cache_is_evicted_then_flushed_while_requests_are_answered(world: World) -> None:
    """Over 90 % and 95 %: warning, then critical; evict, then flush; verified; every request is answered."""
    world.configure(proxy=FILLING, watch=QUICK)
    await world.start()
    await eventually("both workers serve", world.all_serve, 15)
    stop = asyncio.Event()
    numbers = itertools.count()
    filler = asyncio.create_task(fill(world, stop, numbers))
    try:

        async def flushed() -> bool:
            return bool((await world.get("/health/cache"))["flushes"])

        await eventually("the cache is flushed", flushed, 90)
    finally:
        stop.set()
        answered = await filler
    incident = await world.incident("cache:llm-proxy", "resolved", 60)
    print(f"\n{answered} requests answered meanwhile\n{story(incident)}")
    text = story(incident)
    assert {"CacheUsageHigh", "CacheUsageCritical"} <= set(incident["alertnames"]), text
    done = [e["action"] for run in incident["runs"] for e in run["effects"]]
    assert done.index("evict_cache") < done.index("flush_cache"), done
    assert "verified" in kinds(incident), text
    assert (await world.get("/health/cache"))["status"] == "healthy"
