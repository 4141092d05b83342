"""What the caches do for requests, by their headers, their callers and what has become of the answers."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from cache_workers import World, call, keep, look, outcome, whole

from proxy.call import Operation
from proxy.errors import ApiError

BIG = "the same words again and again " * 200


async def test_answers_are_found_by_all_workers_in_the_form_that_is_asked_for(world: World) -> None:
    """What one worker stored another one finds, whole or told as a stream, with usage or without."""
    one, other = world.worker(), world.worker()
    await keep(one, call())
    for caches in (one, other):
        _, hit = await look(caches, call())
        assert hit is not None
        assert hit.body == whole().body
        for _ in range(2):
            _, told = await look(caches, call(stream=True))
            assert told is not None
            assert b'"content":"answer"' in told.body
            assert told.body.endswith(b"data: [DONE]\n\n")
        _, with_usage = await look(caches, call(stream=True, stream_options={"include_usage": True}))
        assert with_usage is not None
        assert b'"usage"' in with_usage.body


async def test_streams_of_embeddings_are_not_made_up(world: World) -> None:
    """A request for a stream that no whole answer can be told as is left alone."""
    caches = world.worker()
    asked = call(operation=Operation.EMBEDDINGS, input="x")
    await keep(caches, asked)
    assert await outcome(caches, asked) == "hit"
    assert await outcome(caches, call(operation=Operation.EMBEDDINGS, input="x", stream=True)) == "bypass"


async def test_callers_are_kept_apart_unless_they_share_on_purpose(world: World) -> None:
    """A private namespace is its caller's alone, even under the same name; a shared one is everybody's who may."""
    caches = world.worker(cache={"shared_namespaces": [{"name": "team", "keys": ["anna", "ben"]}]})
    anna, ben, carl = (call(caller=name) for name in ("anna", "ben", "carl"))
    await keep(caches, anna)
    await keep(caches, anna, x_cache_namespace="notes")
    await keep(caches, anna, x_cache_namespace="team")
    assert await outcome(caches, ben) == "miss"
    assert await outcome(caches, ben, x_cache_namespace="notes") == "miss"
    assert await outcome(caches, ben, x_cache_namespace="team") == "hit"
    assert await outcome(caches, anna, x_cache_namespace="notes") == "hit"
    with pytest.raises(ApiError) as refused:
        caches.plan(carl, {"x-cache-namespace": "team"})
    assert refused.value.status == 403


async def test_age_and_staleness_are_as_the_caller_wants_them(world: World) -> None:
    """max-age refuses what is older, max-stale takes what has expired, and the answer's age is told."""
    caches = world.worker()
    await keep(caches, call(), x_cache_ttl="1m")
    world.clock.advance(50)
    plan, hit = await look(caches, call(), cache_control="max-age=60")
    assert (hit and round(hit.age), plan.outcome) == (50, "hit")
    assert (b"age", b"50") in plan.marks(hit)
    assert await outcome(caches, call(), cache_control="max-age=40") == "miss"
    world.clock.advance(20)
    assert await outcome(caches, call()) == "miss"
    assert await outcome(caches, call(), cache_control="max-stale=5") == "miss"
    assert await outcome(caches, call(), cache_control="max-stale=15") == "stale"
    assert await outcome(caches, call(), cache_control="max-stale") == "stale"


async def test_stale_answer_rescues_who_allows_it_when_all_providers_fail(world: World) -> None:
    """stale-if-error gets an expired answer after a failure, for so long and no longer."""
    caches = world.worker()
    await keep(caches, call(), x_cache_ttl="1m")
    world.clock.advance(90)
    plan, hit = await look(caches, call(), cache_control="stale-if-error=60")
    assert hit is None
    rescued = plan.rescue()
    assert rescued is not None
    assert (rescued.body, plan.outcome) == (whole().body, "stale")
    plan.release()
    for control in ("stale-if-error=20", "max-age=5"):
        plan, _ = await look(caches, call(), cache_control=control)
        assert plan.rescue() is None
        plan.release()


async def test_only_if_cached_asks_nobody(world: World) -> None:
    """A request for a cached answer or none gets a 504 if there is none, also where there is no cache at all."""
    caches = world.worker()
    with pytest.raises(ApiError) as missing:
        await outcome(caches, call(), cache_control="only-if-cached")
    assert (missing.value.status, missing.value.code) == (504, "not_cached")
    await keep(caches, call())
    assert await outcome(caches, call(), cache_control="only-if-cached") == "hit"
    with pytest.raises(ApiError):
        await outcome(world.worker(cache={"enabled": False}), call(), cache_control="only-if-cached")


async def test_no_store_leaves_nothing_and_no_cache_renews(world: World) -> None:
    """`no-store` neither looks nor keeps; `no-cache` asks anew, alone, and what it gets replaces the old answer."""
    caches = world.worker()
    await keep(caches, call(), cache_control="no-store")
    assert await outcome(caches, call()) == "miss"
    await keep(caches, call(), whole("old"))
    async with asyncio.timeout(45):
        first, _ = await look(caches, call(), cache_control="no-cache")
        second, _ = await look(caches, call(), cache_control="no-cache")
    assert (first.outcome, second.outcome) == ("bypass", "bypass")
    second.store(whole("new"))
    _, hit = await look(caches, call())
    assert hit is not None
    assert hit.body == whole("new").body


async def test_what_did_not_come_to_its_own_end_is_not_kept(world: World) -> None:
    """A filtered or cut answer is the caller's, and nobody else's."""
    caches = world.worker()
    await keep(caches, call(), whole(storable=False))
    assert await outcome(caches, call()) == "miss"


@pytest.mark.parametrize(
    ("asked", "headers"),
    [
        (call(), {"x_cache": "summary"}),
        (call(metadata={"purpose": "summary"}), {}),
        (call(model="summariser"), {}),
    ],
    ids=["header", "purpose", "model"],
)
async def test_summaries_have_a_cache_of_their_own(world: World, asked: Any, headers: dict[str, str]) -> None:
    """A request that is marked as a summary is kept, counted and limited apart from all others."""
    caches = world.worker(summary_cache={"models": ["summariser"]})
    await keep(caches, asked, **headers)
    assert await outcome(caches, asked, **headers) == "hit"
    health = caches.health()
    assert (health["entries"], health["caches"]["summary"]["entries"]) == (0, 1)
    figures = caches.metrics()["caches"]
    assert (figures["summary"]["hits"], figures["response"]["hits"]) == (1, 0)


async def test_whole_health_is_that_of_the_worse_cache(world: World) -> None:
    """A full summary cache is told at the top; the figures there are the response cache's."""
    caches = world.worker(summary_cache={"max_entries": 10, "eviction_threshold": 1})
    for number in range(10):
        await keep(caches, call(str(number)), x_cache="summary")
    health = caches.health()
    assert (health["status"], health["entries"]) == ("critical", 0)
    assert health["caches"]["response"]["status"] == "healthy"


async def test_hits_move_entries_up_for_all(world: World) -> None:
    """Hits are told to the store in the tick, in one write, and count where entries are listed."""
    caches = world.worker()
    await keep(caches, call())
    world.clock.advance(10)
    for _ in range(3):
        assert await outcome(caches, call()) == "hit"
    assert caches.all["response"].page(b"", 1)[0].entry.hits == 0
    caches.tick()
    entry = caches.all["response"].page(b"", 1)[0].entry
    assert (entry.hits, entry.used - entry.stored) == (3, 10)


async def test_equal_requests_at_one_time_are_one(world: World) -> None:
    """Of fifty equal misses in two workers one asks the provider, streams and whole ones alike; all have its answer."""
    workers = world.worker(), world.worker()
    asked = 0

    async def request(number: int) -> bytes:
        nonlocal asked
        plan, hit = await look(workers[number % 2], call(stream=number % 5 == 0))
        try:
            if hit is None:
                asked += 1
                await asyncio.sleep(0.1)
                plan.store(whole())
            return b"" if hit is None else hit.body
        finally:
            plan.release()

    answers = await asyncio.gather(*(request(number) for number in range(50)))
    assert asked == 1
    assert len([answer for answer in answers if b"answer" in answer]) == 49


async def test_failed_leader_is_followed_by_one(world: World) -> None:
    """When the one that asks fails, the others try one after the other, and the first success serves all that wait."""
    caches, asked, at_once = world.worker(), 0, 0

    async def request() -> bool:
        nonlocal asked, at_once
        plan, hit = await look(caches, call())
        try:
            if hit is None:
                asked += 1
                at_once += 1
                assert at_once == 1
                turn = asked
                await asyncio.sleep(0.02)
                at_once -= 1
                if turn == 3:
                    plan.store(whole())
            return hit is not None
        finally:
            plan.release()

    served = await asyncio.gather(*(request() for _ in range(20)))
    assert (asked, sum(served)) == (3, 17)


async def test_different_meanings_do_not_wait_for_each_other(world: World) -> None:
    """Another temperature, another caller or another operation is another request."""
    caches = world.worker()
    async with asyncio.timeout(45):
        plans = [
            (await look(caches, asked))[0]
            for asked in (call(), call(temperature=0.1), call(caller="ben"), call(operation=Operation.MESSAGES))
        ]
    assert [plan.outcome for plan in plans] == ["miss"] * 4


async def test_large_requests_are_known_again_by_their_bytes(world: World) -> None:
    """A long prompt has one key in whatever order its fields come, and another one for another caller."""
    caches = world.worker()
    await keep(caches, call(BIG))
    turned = dict(reversed(call(BIG).fields.items()))
    other = call(BIG)
    assert orjson.dumps(turned) != other.body
    for _ in range(2):
        assert await outcome(caches, call(BIG)) == "hit"
        assert (
            await outcome(
                caches, type(other)(Operation.CHAT, orjson.dumps(turned), turned, "demo-small", False, "r", "anna")
            )
            == "hit"
        )
        assert await outcome(caches, call(BIG, caller="ben")) == "miss"


async def test_new_version_leaves_all_answers_behind(world: World) -> None:
    """A deployment with another `version` finds nothing of the old one, and the old worker goes on finding its own."""
    old = world.worker(cache={"version": "1"})
    await keep(old, call())
    new = world.worker(cache={"version": "2"})
    assert await outcome(new, call()) == "miss"
    assert new.health()["entries"] == 0
    await keep(old, call("later"))
    assert await outcome(old, call("later")) == "hit"
    assert await outcome(new, call("later")) == "miss"
