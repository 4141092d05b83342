"""What a repair asks of the caches: compaction, a round of warming at once, a pause that ends; and what they tell."""

from __future__ import annotations

import asyncio
from typing import Any

from cache_workers import World, call, keep, look, outcome, whole

from proxy import metrics
from proxy.cache.service import Caches

WARM = {"cache": {"ttl": "10m", "ttl_jitter": 0, "warming": {"enabled": True, "interval": "5m", "top": 3}}}
PLAIN = {"cache": {"ttl": "10m", "ttl_jitter": 0, "compression": {"enabled": True, "min_size_kb": 0.1}}}


def figure(world: World, name: str, *labels: str) -> float:
    family = metrics.read(world.place / "metrics").get(name)
    return family.series.get(labels, [0.0])[0] if family else 0.0


def damage(world: World, caches: Caches, text: str, body: bytes | None) -> None:
    """Puts another body, or none, where an entry's was."""
    assert world.shared is not None
    key = caches.plan(call(text), {})._key
    bodies = world.shared.database("cache_bodies")
    with world.shared.write() as txn:
        if body is None:
            assert txn.delete(key, db=bodies)
        else:
            assert txn.put(key, body, db=bodies)


async def test_compaction_removes_what_only_takes_up_room(world: World) -> None:
    """Damaged, expired and unused entries go, each counted once; what is in use or young stays and is found."""
    caches = world.worker(**PLAIN)
    for text in ("old", "older"):
        await keep(caches, call(text))
    world.clock.advance(400)
    for text in ("unused", "used", "torn", "bodiless"):
        await keep(caches, call(text), whole("x" * 500))
    assert await outcome(caches, call("used")) == "hit"
    damage(world, caches, "torn", b"no deflate")
    damage(world, caches, "bodiless", None)
    world.clock.advance(301)
    await keep(caches, call("young"))
    done = await caches.compact()
    assert {name: done[name] for name in ("checked", "damaged", "expired", "unused", "entries")} == {
        "checked": 7, "damaged": 2, "expired": 2, "unused": 1, "entries": 2,
    }  # fmt: skip
    assert [await outcome(caches, call(text)) for text in ("used", "young", "unused")] == ["hit", "hit", "miss"]
    assert (await caches.compact())["checked"] == 2


async def test_damage_is_a_miss_that_is_counted(world: World) -> None:
    """An entry whose body cannot be read is asked again as if it were not there, and the figures tell of it."""
    caches = world.worker(**PLAIN)
    await keep(caches, call("torn"), whole("x" * 500))
    damage(world, caches, "torn", b"no deflate")
    caches.all["response"].store.hot.clear()
    plan, hit = await look(caches, call("torn"))
    assert hit is None
    plan.store(whole("again"))
    plan.release()
    caches.tick()
    caches.refresh()
    assert figure(world, "cache_damaged_total", "response") >= 1
    assert await outcome(caches, call("torn")) == "hit"


async def test_how_long_answers_are_kept_past_their_end_is_told(world: World) -> None:
    """Nothing while all live; then the seconds since the first one's end, until compaction."""
    caches = world.worker(**PLAIN)
    await keep(caches, call("a"))
    caches.refresh()
    assert figure(world, "cache_longest_expired_seconds", "response") == 0
    world.clock.advance(700)
    caches.refresh()
    assert round(figure(world, "cache_longest_expired_seconds", "response")) == 100
    await caches.compact()
    assert figure(world, "cache_longest_expired_seconds", "response") == 0


async def settled(caches: Caches) -> None:
    caches.tick()
    while caches.care._round is not None:
        await asyncio.sleep(0.001)


async def popular(world: World, caches: Caches) -> None:
    for text in ("a", "a", "b", "b"):
        plan, hit = await look(caches, call(text))
        if hit is None:
            plan.store(whole())
        plan.release()
    world.clock.advance(31)
    await settled(caches)


async def test_a_round_of_warming_is_begun_when_it_is_wanted(world: World) -> None:
    """After a flush the popular answers are fetched at once, long before the interval, and once only; another worker's
    wish counts as well."""
    first, second = world.worker(**WARM), world.worker(**WARM)
    await popular(world, first)
    first.flush()
    world.clock.advance(1)
    assert second.care.warm()["warmed"] == 0
    for _ in range(3):
        await settled(first)
        await settled(second)
        world.clock.advance(1)
    assert sorted(asked.fields["messages"][0]["content"] for asked in world.asked) == ["a", "b"]
    assert [await outcome(first, call(text)) for text in ("a", "b")] == ["hit", "hit"]
    assert first.care.warming()["warmed"] == 2


async def test_warming_that_is_off_stays_off(world: World) -> None:
    """A round that is wanted of a cache that is not to be warmed is none."""
    caches = world.worker()
    await popular(world, caches)
    caches.flush()
    assert caches.care.warm()["enabled"] is False
    await settled(caches)
    assert world.asked == []


async def test_a_pause_ends_by_itself(world: World) -> None:
    """For its seconds nothing is warmed by any worker, and the figures say until when; then it goes on."""
    caches = world.worker(**WARM)
    await popular(world, caches)
    paused: dict[str, Any] = caches.care.pause(900)
    assert (paused["paused"], paused["paused_until"] - paused["paused_since"]) == (True, 900)
    caches.refresh()
    assert (figure(world, "cache_warming_enabled"), figure(world, "cache_warming_paused")) == (1, 1)
    world.clock.advance(880)
    await settled(caches)
    assert world.asked == []
    world.clock.advance(21)
    await settled(caches)
    assert world.asked
    caches.refresh()
    assert figure(world, "cache_warming_paused") == 0
