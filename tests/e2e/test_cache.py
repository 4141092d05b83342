"""The cache driven over its warning and critical marks by real answers."""

from __future__ import annotations

import asyncio
import re

import aiohttp
from world import World, eventually, kinds, story

LIMIT_MB = 4
FILLING = {"cache": {"max_size_mb": LIMIT_MB, "eviction_threshold": 1.0, "max_entry_kb": 512}}
QUICK = {"probes": {"cache": {"interval": "500ms"}}, "guards": {"backoff_initial": "1s"}}


async def keep_full(world: World, stop: asyncio.Event) -> int:
    """Fills the cache over 96 % with new answers, again and again; returns how many requests were answered."""
    answered = 0
    url = f"http://127.0.0.1:{world.port}/v1/chat/completions"
    async with aiohttp.ClientSession() as session:
        while not stop.is_set():
            usage = await world.get("/health/cache")
            if usage["memory_usage_mb"] / LIMIT_MB > 0.96:
                await asyncio.sleep(0.05)
                continue
            body = {"model": "demo-small", "messages": [{"role": "user", "content": f"{answered} " + "x" * 100_000}]}
            async with session.post(url, json=body) as response:
                assert response.status == 200, await response.text()
                await response.read()
                answered += 1
    return answered


def hasten(world: World) -> None:
    """The shipped ladder with shorter watches, so that the test climbs it in seconds."""
    file = world.root / "config/playbooks/relieve-memory.yaml"
    text, count = re.subn(r"\{hold: \w+, within: \w+\}", "{hold: 4s, within: 8s}", file.read_text())
    assert count >= 4
    file.write_text(text)
    world.edit("rules/cache.yaml", {"interval: 5s": "interval: 1s", "for: 5s": "for: 1s"})


async def test_full_cache_is_evicted_then_flushed_while_requests_are_answered(world: World) -> None:
    """Over 90 % and 95 %: warning, then critical; evict, then flush; verified; every request is answered."""
    world.configure(proxy=FILLING, watch=QUICK)
    hasten(world)
    await world.start()
    await eventually("both workers serve", world.all_serve, 15)
    stop = asyncio.Event()
    filler = asyncio.create_task(keep_full(world, stop))
    try:

        async def flushed() -> bool:
            return bool((await world.get("/health/cache"))["flushes"])

        await eventually("the cache is flushed", flushed, 90)
    finally:
        stop.set()
        answered = await filler
    incident = await world.incident("cache:llm-proxy", "resolved", 60)
    text = story(incident)
    print(f"\n{answered} requests answered meanwhile\n{text}")
    assert {"CacheUsageHigh", "CacheUsageCritical"} <= set(incident["alertnames"]), text
    done = [(e["action"], e["arguments"].get("expired")) for run in incident["runs"] for e in run["effects"]]
    assert done == [("evict_cache", True), ("evict_cache", False), ("flush_cache", None)], done
    assert "verified" in kinds(incident), text
    assert (await world.get("/health/cache"))["status"] == "healthy"
