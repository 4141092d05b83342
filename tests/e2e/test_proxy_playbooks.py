"""Providers, processors and the cache of a real proxy, repaired by the shipped playbooks with shorter watches."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from typing import Any

import aiohttp
import lmdb
from quick_playbooks import acted, done, hasten
from world import QUESTION, World, eventually, story

QUICK: dict[str, Any] = {
    "probes": {
        "providers": {"interval": "300ms"},
        "proxy": {"interval": "500ms"},
        "cache": {"interval": "500ms"},
    },
    "guards": {"backoff_initial": "1s"},
}


async def held_back(world: World) -> dict[tuple[str, str], float]:
    """What the proxy says that it holds back."""
    headers = {"authorization": f"Bearer {world.admin_key}"}
    url = f"http://127.0.0.1:{world.port}/api/restraints"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        found = (await response.json())["restraints"]
    return {(one["what"], one["subject"]): one["share"] for one in found}


async def test_a_provider_that_refuses_limits_or_dawdles_is_treated_by_its_class(world: World) -> None:
    """A refused key gives way to the spare; 429 halves the provider's rate; slowness drains it; no caller fails, no
    process is replaced, and a person hears of nothing."""
    a, b = secrets.token_hex(8), secrets.token_hex(8)
    keyed = {
        "name": "keyed", "kind": "openai", "base_url": f"http://127.0.0.1:{world.primary}/v1", "models": ["demo-small"],
        "keys": [{"id": "a", "key": a}, {"id": "b", "key": b, "spare": True}],
    }  # fmt: skip
    local = [
        {"name": "secondary", "kind": "local", "port": world.secondary},
        {"name": "primary", "kind": "local", "port": world.primary},
    ]
    world.configure(proxy={"providers": [keyed, *local]}, watch=QUICK, routes=world.inbox.routes)
    hasten(world, "rules/providers.yaml", {"> 10": "> 0.3", "for: 5m": "for: 1s", "for: 2m": "for: 1h"})
    hasten(world, "playbooks/provider-failover.yaml", {"> 10\n": "> 0.3\n", "hold: 5s": "hold: 1s"})
    await world.start()
    await eventually("both workers serve", world.all_serve, 15)
    before = [worker["pid"] for worker in await world.workers()]
    async with world.load(15) as calls:
        await eventually("the first key works", lambda: calls.providers.get("keyed", 0) > 5, 15)
        await world.demo(world.primary, mode="ok", keys={a: "401"})
        rotated = await acted(world, "provider:keyed", "rotate_provider_key")
        assert done(rotated, "provider-failover") == ["rotate_provider_key"], story(rotated)
        await world.incident("provider:keyed", "resolved", 30)

        await world.demo(world.primary, mode="ok", keys={a: "401", b: "429"}, retry_after=1)

        async def lowered() -> bool:
            return (await held_back(world)).get(("rate", "keyed")) == 0.5

        await eventually("the provider's rate is lowered", lowered, 30)
        await world.demo(world.primary, mode="ok", keys={a: "401"})
        limited = await acted(world, "provider:keyed", "lower_rate")
        assert "rung_verified" in story(limited), story(limited)
        await world.incident("provider:keyed", "resolved", 30)

        await world.demo(world.primary, mode="slow", delay_seconds=0.6, keys={a: "401"})

        async def drained() -> bool:
            return (await held_back(world)).get(("rate", "keyed")) == 0.1

        await eventually("the slow provider is drained", drained, 30)
        slow = await acted(world, "provider:keyed", "lower_rate")
        assert slow["alertnames"] == ["ProviderSlow"], story(slow)
        served = Counter(calls.providers)
        await eventually("others serve", lambda: sum((Counter(calls.providers) - served).values()) > 20, 15)
        since = Counter(calls.providers) - served
        assert since["keyed"] <= 0.2 * sum(since.values()), since
    assert calls.failures == []
    assert [worker["pid"] for worker in await world.workers()] == before
    assert [m for m in world.inbox.messages if "provider:keyed" in str(m)] == []


def damage(world: World, number: int) -> int:
    """Spoils so many bodies in the store behind the proxy's back; how many it found."""
    place = str(world.root / "var/lib/llm-proxy/shared")
    with lmdb.open(place, max_dbs=32, map_size=1 << 30) as environment:
        bodies = environment.open_db(b"cache_bodies", create=False)
        with environment.begin(write=True) as txn:
            with txn.cursor(db=bodies) as cursor:
                keys = list(cursor.iternext(values=False))[:number]
            return sum(txn.put(bytes(key), b"spoilt", db=bodies) for key in keys)


async def ask(world: World, texts: list[str]) -> None:
    """Questions that the cache may answer, each over a connection of its own."""
    url = f"http://127.0.0.1:{world.port}/v1/chat/completions"
    for text in texts:
        body = {**QUESTION, "messages": [{"role": "user", "content": text + " word" * 300}]}
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
            assert response.status in (200, 503), await response.text()


async def test_a_hot_worker_and_a_damaged_cache_are_repaired_while_requests_are_answered(world: World) -> None:
    """On the host the busiest worker is profiled, warming paused and load shed; the hot worker alone is replaced; the
    damaged entries are found and removed. Nobody hears of anything but the shedding."""
    cache = {"compression": {"enabled": True}, "warming": {"enabled": True, "interval": "1h"}}
    world.configure(proxy={"cache": cache}, watch=QUICK)
    hasten(world, "rules/workers.yaml", {
        "rate(proxywatch_worker_cpu_seconds_total[1m])": "rate(proxywatch_worker_cpu_seconds_total[4s])",
        # Later than the host's, whose playbook is to have shed load by then: both work on one service.
        "rate1m > 0.95\n        for: 2m": "rate1m > 0.15\n        for: 8s",
    })  # fmt: skip
    hasten(world, "rules/system.yaml", {
        "interval: 15s": "interval: 1s",
        "expr: host:cpu_busy:ratio2m > 0.80\n        for: 5m": "expr: max(worker:cpu:rate1m) > 0.15",
    })  # fmt: skip
    hasten(world, "rules/cache.yaml", {"[1m]": "[6s]"})
    hasten(world, "rules/proxy.yaml", {"interval: 15s": "interval: 1s", "[5m]": "[5s]"})
    hasten(world, "playbooks/relieve-cpu.yaml", {
        "max(worker:cpu:rate1m) > 0.5": "max(worker:cpu:rate1m) > 0.15", "duration: 3s": "duration: 500ms",
        "hold: 5s, within: 10s": "hold: 1s, within: 1s", "hold: 10s, within: 90s": "hold: 1s, within: 1s",
        "hold: 10s, within: 2m": "hold: 1s, within: 3s", "hold: 10s\n      within: 2m": "hold: 1s\n      within: 20s",
        "host:cpu_busy:ratio2m > 0.95": "max(worker:cpu:rate1m) > 0.15", "> 0.3 *": "> 0.01 *",
        "} > 0.9\n": "} > 0.15\n", "< 0.5)": "< 0.15)",
    })  # fmt: skip
    hasten(world, "playbooks/cache-recovery.yaml", {"[1m]": "[6s]", "hold: 15s": "hold: 1s"})
    await world.start()
    await eventually("both workers serve", world.all_serve, 15)
    texts = [f"question {number}" for number in range(20)]
    await ask(world, texts)

    async def kept() -> bool:
        return bool((await world.get("/health/cache"))["entries"] >= len(texts))

    await eventually("the answers are in the cache", kept, 10)
    before = {worker["slot"]: worker["pid"] for worker in await world.workers()}
    fault = {"kind": "burn", "seconds": 300}
    headers = {"authorization": f"Bearer {world.admin_key}"}
    async with world.load(10) as calls:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{world.port}/debug/fault", json=fault, headers=headers) as response,
        ):
            hot = (await response.json())["pid"]
        slot = next(slot for slot, pid in before.items() if pid == hot)
        spoilt = await asyncio.to_thread(damage, world, 15)
        await ask(world, texts[:5] * 2)
        host, cached, worker = await asyncio.gather(
            acted(world, "host", "shed_load"),
            acted(world, "cache:llm-proxy", "compact_cache"),
            acted(world, f"worker:llm-proxy/{slot}", "recycle_worker"),
        )
        await world.incident(f"worker:llm-proxy/{slot}", "resolved", 40)
    assert spoilt == 15
    assert done(host, "relieve-cpu")[:3] == ["profile_worker", "pause_warming", "shed_load"], story(host)
    assert "keep_busy" in story(host) or "hold_the_event_loop" in story(host), story(host)
    assert "damaged" in story(cached), story(cached)
    assert "flush_cache" not in done(cached, "cache-recovery"), story(cached)
    assert done(worker, "relieve-cpu")[-1] == "recycle_worker", story(worker)
    after = {worker["slot"]: worker["pid"] for worker in await world.workers()}
    assert {each for each in before if before[each] != after[each]} == {slot}
    assert all("sheds load" in failure for failure in calls.failures), calls.failures[:3]
    assert calls.failures, "some new requests were refused while load was shed"
