"""What the caches have done for them: relief under memory pressure, and warming."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from cache_workers import World, call, keep, look, outcome, whole

from proxy.cache.service import Caches
from proxy.call import Call
from proxy.dialects.contract import Whole
from proxy.errors import ApiError

WARM = {"cache": {"ttl": "10m", "ttl_jitter": 0, "warming": {"enabled": True, "interval": "5m", "top": 3}}}


async def rounds(caches: Caches) -> None:
    """A tick, and the end of what it began."""
    caches.tick()
    while caches.care._round is not None:
        await asyncio.sleep(0.001)


async def make_popular(world: World, caches: Caches, times: dict[str, int]) -> None:
    for text, number in times.items():
        await keep(caches, call(text))
        for _ in range(number - 1):
            await outcome(caches, call(text))
    world.clock.advance(31)
    await rounds(caches)


def texts(asked: list[Call]) -> list[Any]:
    return [one.fields["messages"][0]["content"] for one in asked]


async def test_popular_requests_are_asked_again_before_they_expire(world: World) -> None:
    """The most popular come first, at most `top` of them, nothing that was asked once, and nothing that is fresh."""
    caches = world.worker(**WARM)
    await make_popular(world, caches, {"a": 5, "b": 3, "c": 9, "d": 2, "once": 1})
    assert world.asked == []
    world.clock.advance(320)
    await rounds(caches)
    assert texts(world.asked) == ["c", "a", "b"]
    assert {one.caller for one in world.asked} == {"anna"}
    world.clock.advance(295)
    _, hit = await look(caches, call("c"))
    assert hit is not None
    assert hit.body == whole("warmed").body
    assert await outcome(caches, call("d")) == "miss"
    figures = caches.care.warming()
    assert (figures["warmed"], figures["failed"], figures["fresh"]) == (3, 0, 3)
    assert figures["caches"]["response"]["requests_remembered"] == 4


async def test_warm_answers_go_where_they_were_asked(world: World) -> None:
    """A warmed answer lies in its caller's own namespace, also when the caller had asked for streams."""
    caches = world.worker(**WARM)
    plan, _ = await look(caches, call(stream=True), x_cache_namespace="notes")
    plan.release()
    await keep(caches, call(), x_cache_namespace="notes")
    world.clock.advance(31)
    await rounds(caches)
    world.clock.advance(700)
    await rounds(caches)
    assert [one.stream for one in world.asked] == [False]
    assert "stream" not in world.asked[0].fields
    assert await outcome(caches, call(stream=True), x_cache_namespace="notes") == "hit"
    assert await outcome(caches, call()) == "miss"
    assert await outcome(caches, call(caller="ben"), x_cache_namespace="notes") == "miss"


async def test_one_worker_warms_for_all(world: World) -> None:
    """Of two workers only one asks, and when that one ends the other one goes on, in the same rhythm."""
    first, second = world.worker(**WARM), world.worker(**WARM)
    await make_popular(world, first, {"a": 2})
    world.clock.advance(700)
    await rounds(first)
    await rounds(second)
    assert len(world.asked) == 1
    caches, metrics = world.workers.pop(0)
    await caches.close()
    metrics.close()
    await rounds(second)
    assert len(world.asked) == 1
    world.clock.advance(600)
    await rounds(second)
    assert len(world.asked) == 2


async def test_warming_is_paused_for_the_whole_service(world: World) -> None:
    """A pause at one worker holds all, and those that start later, until one of them is told to go on."""
    first, second = world.worker(**WARM), world.worker(**WARM)
    await make_popular(world, first, {"a": 2})
    world.clock.advance(700)
    assert second.care.pause()["held_by"] == ["operator"]
    await rounds(first)
    assert world.asked == []
    assert world.worker(**WARM).care.warming()["paused"] is True
    assert second.care.resume()["paused"] is False
    await rounds(first)
    assert len(world.asked) == 1


async def test_warming_waits_while_it_would_do_harm(world: World) -> None:
    """Nobody is asked while memory is short or no provider is usable."""
    caches = world.worker(**WARM)
    await make_popular(world, caches, {"a": 2})
    world.clock.advance(700)
    world.usable, world.memory_percent = False, 90.0
    await rounds(caches)
    assert caches.care.warming()["held_by"] == ["memory_pressure", "no_usable_provider"]
    world.memory_percent = 20.0
    await rounds(caches)
    assert world.asked == []
    world.usable = True
    await rounds(caches)
    assert len(world.asked) == 1


def failing(_call: Call) -> Whole | None:
    raise ApiError(502, "no", code="upstream_error")


@pytest.mark.parametrize(
    ("answer", "remembered"),
    [(failing, 1), (lambda _call: None, 0), (lambda _call: whole(storable=False), 0)],
    ids=["failure", "no_answer", "not_to_keep"],
)
async def test_warming_that_fails_leaves_things_as_they_are(
    world: World, answer: Callable[[Call], Whole | None], remembered: int
) -> None:
    """A failure is counted and tried again next time; a request whose answer is not kept is not asked again."""
    caches = world.worker(**WARM)
    await make_popular(world, caches, {"a": 2})
    world.clock.advance(400)
    world.answer = answer
    await rounds(caches)
    figures = caches.care.warming()
    assert (figures["warmed"], figures["failed"]) == (0, 1)
    assert figures["caches"]["response"]["requests_remembered"] == remembered
    assert await outcome(caches, call("a")) == "hit"


async def test_warming_keeps_to_its_budget(world: World) -> None:
    """A round ends when its answers have come to the size that it may bring, and the next begins after the interval."""
    small = {"cache": {"warming": {"enabled": True, "interval": "5m", "max_size_mb": 0.01}}}
    caches = world.worker(**small)
    await make_popular(world, caches, {"a": 3, "b": 2})
    world.answer = lambda _call: whole("x" * 20_000)
    world.clock.advance(3600)
    await rounds(caches)
    await rounds(caches)
    assert texts(world.asked) == ["a"]


async def test_warming_off_remembers_nothing(world: World) -> None:
    """Without warming no request is counted or kept on disk."""
    caches = world.worker()
    await make_popular(world, caches, {"a": 5})
    assert caches.all["response"].popularity.remembered() == 0


async def fill(caches: Caches, number: int, what: str = "text") -> None:
    for each in range(number):
        await keep(caches, call(f"{what} {each}"))


async def test_memory_pressure_takes_a_batch_a_second(world: World) -> None:
    """Above the threshold batches go, the least useful first, until a tenth of the limits is left; then no more."""
    caches = world.worker(cache={"max_entries": 100, "memory_pressure": {"eviction_batch_size": 20}})
    await fill(caches, 70)
    world.memory_percent = 85.0
    sizes = []
    for _ in range(6):
        world.clock.advance(1)
        caches.tick()
        sizes.append(caches.health()["entries"])
    assert sizes == [50, 30, 10, 10, 10, 10]
    assert caches.all["response"].store.hot.size_bytes == 0
    world.memory_percent = 20.0
    await fill(caches, 50, "other")
    world.clock.advance(6)
    caches.tick()
    assert caches.health()["entries"] == 60


async def test_emergency_takes_all_that_there_is(world: World) -> None:
    """Above the emergency mark batches go without a pause until memory is well again, or nothing is left."""
    caches = world.worker(cache={"max_entries": 100})
    await fill(caches, 70)
    world.memory_percent = 97.0
    caches.tick()
    assert caches.health()["entries"] == 0


async def test_emergency_ends_when_memory_is_well(world: World) -> None:
    """No more goes than it takes."""
    caches = world.worker(cache={"max_entries": 100, "memory_pressure": {"eviction_batch_size": 10}})
    await fill(caches, 70)
    looks = iter([97.0, 97.0, 90.0])
    caches.care._memory = lambda: next(looks)
    caches.tick()
    assert caches.health()["entries"] == 40


async def test_only_one_worker_evicts_for_all(world: World) -> None:
    """A second worker gives up what it has in hand, and leaves the store to the first."""
    pressed = {"cache": {"max_entries": 100, "memory_pressure": {"eviction_batch_size": 10}}}
    first, second = world.worker(**pressed), world.worker(**pressed)
    await fill(first, 70)
    await outcome(second, call("text 1"))
    assert second.all["response"].store.hot.size_bytes > 0
    world.memory_percent = 85.0
    first.tick()
    second.tick()
    assert first.health()["entries"] == 60
    assert second.all["response"].store.hot.size_bytes == 0
