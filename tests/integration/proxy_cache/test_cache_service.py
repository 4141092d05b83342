"""The caches of a real service with two workers, over HTTP."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest
from cache_world import Place, place, running, served

from proxy.control import request

__all__ = ["place", "served"]


async def in_flight(place: Place) -> list[int]:
    """Requests in hand, by worker."""

    def look() -> list[int]:
        run = Path(place.service.settings["run_dir"])
        sockets = sorted(run.glob("worker-*.sock"))
        return [int(request(socket, "GET", "/health", None, timeout=45)[1]["in_flight"]) for socket in sockets]

    return await asyncio.to_thread(look)


async def test_fifty_equal_misses_at_two_workers_are_one_request(place: Place) -> None:
    """One request reaches the provider; all fifty callers, at both workers, have its answer, and it is stored once."""
    place.upstream.delay = 1.5
    asking = [asyncio.create_task(place.ask()) for _ in range(50)]

    async def all_in_hand() -> bool:
        return sum(await in_flight(place)) == 50

    await place.until(all_in_hand)
    assert min(await in_flight(place)) > 0
    answers = await asyncio.gather(*asking)
    assert len(place.upstream.asked) == 1
    assert {answer.status for answer in answers} == {200}
    assert {answer.body for answer in answers} == {answers[0].body}
    assert sorted(answer.headers["x-cache"] for answer in answers) == ["hit"] * 49 + ["miss"]


async def test_followers_survive_their_leader(place: Place) -> None:
    """The caller whose request is in the air goes away: its upstream is closed, and one other one asks for all."""
    place.upstream.delay = 1.0
    leader = asyncio.create_task(place.ask())

    async def asked() -> bool:
        return len(place.upstream.asked) == 1

    await place.until(asked)
    followers = [asyncio.create_task(place.ask()) for _ in range(10)]

    async def all_in_hand() -> bool:
        return sum(await in_flight(place)) == 11

    await place.until(all_in_hand)
    leader.cancel()
    answers = await asyncio.gather(*followers)
    assert {answer.status for answer in answers} == {200}
    assert (len(place.upstream.asked), place.upstream.closed) == (2, 1)


async def holds(place: Place, entries: int) -> bool:
    """Whether the caches have come to hold so many; answers may be gathered for some milliseconds."""
    caches = (await place.shows("/health/cache"))["caches"]
    return sum(cache["entries"] for cache in caches.values()) == entries


async def settled(place: Place) -> bool:
    """Whether the workers have told each other what they counted before."""
    first = await place.shows("/metrics/cache")
    await asyncio.sleep(1.2)
    return (await place.shows("/metrics/cache"))["hits"] == first["hits"]


async def test_whole_service_effects(place: Place) -> None:
    """Flush, invalidation, pause and figures are the whole service's, whichever worker answers."""
    await place.until(lambda: settled(place))
    before = await place.shows("/metrics/cache")
    await place.ask()
    assert await place.outcomes(12) == ["hit"] * 12
    assert (await place.admin("DELETE", "/api/cache")).json()["flushed"] == 1
    assert (await place.outcomes(12)).count("miss") == 1
    done = (await place.admin("POST", "/api/cache/invalidate", json={"model": "m*", "cache": "response"})).json()
    assert done == {"invalidated": 1, "caches": {"response": 1}}
    assert (await place.outcomes(12)).count("miss") == 1
    assert (await place.admin("POST", "/api/cache/pause-warming")).json()["paused"] is True
    assert {(await place.shows("/metrics/cache/warming"))["paused"] for _ in range(8)} == {True}
    assert (await place.admin("POST", "/api/cache/resume-warming")).json()["paused"] is False
    assert {(await place.shows("/metrics/cache/warming"))["paused"] for _ in range(8)} == {False}
    (listed,) = (await place.shows("/debug/cache/keys?limit=5"))["keys"]
    answer = await place.ask()
    assert listed["id"] == answer.headers["x-cache-key"]
    assert (await place.shows("/debug/cache/stats"))["oldest_entry_age_seconds"] >= 0
    assert (await place.shows("/debug/cache/config"))["response"]["ttl"] == 1800

    async def counted() -> bool:
        figures = await place.shows("/metrics/cache")
        return (figures["hits"] - before["hits"], figures["misses"] - before["misses"]) == (12 + 11 + 11 + 1, 3)

    await place.until(counted)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/cache/invalidate", {}, 400),
        ("POST", "/api/cache/invalidate", {"cache": "response"}, 400),
        ("POST", "/api/cache/invalidate", {"modle": "x"}, 400),
        ("POST", "/api/cache/invalidate", {"older_than": "60"}, 400),
        ("POST", "/api/cache/import", {"entries": [{}]}, 400),
        ("GET", "/debug/cache/keys?limit=0", None, 400),
        ("GET", "/debug/cache/keys?after=xyz", None, 400),
        ("GET", "/debug/cache/keys?cache=other", None, 400),
    ],
)
async def test_nonsense_is_refused(place: Place, method: str, path: str, body: object, status: int) -> None:
    """What an operator cannot have meant is a 400 that says what is wrong, above all a selector that selects all."""
    answer = await place.admin(method, path, json=body)
    assert (answer.status, answer.json()["error"]["type"]) == (status, "invalid_request_error")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/debug/cache/keys"),
        ("GET", "/debug/cache/config"),
        ("GET", "/debug/cache/stats"),
        ("GET", "/api/cache/export"),
        ("POST", "/api/cache/import"),
        ("POST", "/api/cache/invalidate"),
        ("POST", "/api/cache/pause-warming"),
        ("POST", "/api/cache/resume-warming"),
        ("DELETE", "/api/cache"),
    ],
)
async def test_operators_routes_are_for_admins(place: Place, method: str, path: str) -> None:
    """A caller without an admin's key is refused."""
    answer = await place.call(method, path, {})
    assert answer.status in (401, 403)


async def test_streamed_answers_are_kept_whole(place: Place) -> None:
    """A stream that came to its end is a hit afterwards, as a stream and whole; one stream reached the provider."""
    first = await place.ask(stream=True)
    assert (first.headers["x-cache"], first.text.count("[DONE]")) == ("miss", 1)
    again, told = await place.ask(stream=True), await place.ask()
    assert (again.headers["x-cache"], told.headers["x-cache"]) == ("hit", "hit")
    assert told.json()["choices"][0]["message"]["content"] == "answer 1"
    deltas = [orjson.loads(line[6:]) for line in again.text.splitlines() if line.startswith("data: {")]
    content = "".join(choice["delta"].get("content") or "" for delta in deltas for choice in delta["choices"])
    assert (content, again.text.endswith("data: [DONE]\n\n")) == ("answer 1", True)
    assert len(place.upstream.asked) == 1


async def test_headers_tell_and_steer(place: Place) -> None:
    """Lifetimes, ages, staleness after a failure of all providers, and 504 for what may only come from the cache."""
    missing = await place.ask(cache_control="only-if-cached")
    assert (missing.status, missing.json()["error"]["code"]) == (504, "not_cached")
    await place.ask(x_cache_ttl="1s")
    answer = await place.ask(cache_control="only-if-cached")
    assert (answer.headers["x-cache"], answer.headers["age"]) == ("hit", "0")

    async def expired() -> bool:
        return (await place.ask(cache_control="only-if-cached")).status == 504

    await place.until(expired)
    place.upstream.status = 400
    refused = await place.ask(cache_control="stale-if-error=60")
    assert refused.status == 400
    assert (await place.ask("other")).status == 400
    assert (await place.ask("other", cache_control="only-if-cached")).status == 504
    bad = await place.ask(x_cache_ttl="soon")
    assert (bad.status, bad.json()["error"]["param"]) == (400, "x-cache-ttl")


async def test_stale_answer_when_all_providers_fail(place: Place) -> None:
    """Who allows it has the expired answer instead of the failure."""
    await place.ask(x_cache_ttl="1s")

    async def expired() -> bool:
        return (await place.ask(cache_control="only-if-cached")).status == 504

    await place.until(expired)
    place.upstream.status = 500
    assert (await place.ask()).status >= 500
    rescued = await place.ask(cache_control="stale-if-error=60")
    assert (rescued.status, rescued.headers["x-cache"]) == (200, "stale")
    await place.admin("POST", "/api/providers/own/circuit", json={"state": "closed"})


async def test_export_and_import_over_http(place: Place) -> None:
    """What one service exports, as one JSON document, is answered from the cache after a flush and an import."""
    for number in range(120):
        await place.ask(f"text {number}", x_cache="summary" if number % 3 == 0 else "")
    await place.until(lambda: holds(place, 120))
    exported = await place.admin("GET", "/api/cache/export")
    assert exported.headers["content-type"] == "application/json"
    document = exported.json()
    assert document["count"] == len(document["entries"]) == 120
    await place.admin("DELETE", "/api/cache")
    imported = await place.admin("POST", "/api/cache/import", data=exported.body)
    assert imported.json() == {"imported": 120, "skipped": {"expired": 0, "other_version": 0, "too_large": 0}}
    again = (await place.admin("GET", "/api/cache/export")).json()
    assert again["entries"] == document["entries"]
    assert (await place.ask("text 7")).headers["x-cache"] == "hit"
    assert len(place.upstream.asked) == 120


async def test_import_larger_than_any_other_body(place: Place) -> None:
    """An import may be larger than max_body_mb, comes piece by piece, and ends with the first fault; without an admin's
    key not even its beginning is read."""
    await place.ask()
    document = (await place.admin("GET", "/api/cache/export")).json()
    (entry,) = document["entries"]
    padded = orjson.loads(entry["body"]) | {"padding": "x" * 500_000}
    entries = [entry | {"key": f"{number:032x}", "body": orjson.dumps(padded).decode()} for number in range(40)]
    large = orjson.dumps(document | {"entries": entries, "count": 40})
    assert len(large) > 2 * 10 * 2**20 * 0.95
    done = await place.admin("POST", "/api/cache/import", data=io.BytesIO(large))
    assert (done.status, done.json()["imported"]) == (200, 40)
    entries[1]["stored"] = "soon"
    refused = await place.admin(
        "POST", "/api/cache/import", data=io.BytesIO(orjson.dumps(document | {"entries": entries[:3]}))
    )
    assert (refused.status, "entry 2: stored" in refused.text) == (400, True)
    strange = await place.call("POST", "/api/cache/import", {}, data=orjson.dumps(document))
    assert strange.status in (401, 403)


async def test_import_in_chunks_that_wait(place: Place) -> None:
    """A body of unknown length is taken as it comes; one that is cut by its client leaves no harm behind."""
    for number in range(3):
        await place.ask(f"text {number}")
    await place.until(lambda: holds(place, 3))
    raw = (await place.admin("GET", "/api/cache/export")).body
    await place.admin("DELETE", "/api/cache")

    async def slowly(upto: int) -> AsyncIterator[bytes]:
        for at in range(0, upto, 400):
            yield raw[at : at + 400]
            await asyncio.sleep(0.01)
        if upto < len(raw):
            raise ConnectionError

    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await place.admin("POST", "/api/cache/import", data=slowly(len(raw) // 2))
    done = await place.admin("POST", "/api/cache/import", data=slowly(len(raw)))
    assert (done.status, done.json()["imported"]) == (200, 3)
    assert await place.outcomes(6, "text 1") == ["hit"] * 6


async def test_torn_store_is_rebuilt_while_requests_are_answered(place: Place) -> None:
    """The cache's file is overwritten under load: every request is answered, the file is set aside, hits come again."""
    await place.outcomes(4)
    pids = {worker["pid"] for worker in place.service.workers()}
    data = Path(place.service.settings["state_dir"]) / "shared" / "data.mdb"
    stop, statuses = asyncio.Event(), list[int]()

    async def load(number: int) -> None:
        url = f"{place.url}/v1/chat/completions"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session:
            while not stop.is_set():
                body = {"model": "m", "messages": [{"role": "user", "content": f"{number} {len(statuses) % 40}"}]}
                async with session.post(url, json=body) as response:
                    await response.read()
                    statuses.append(response.status)

    loads = [asyncio.create_task(load(number)) for number in range(6)]
    await asyncio.sleep(0.5)
    before = len(statuses)
    with data.open("r+b") as file:
        file.write(random.Random(1).randbytes(200_000))

    async def set_aside() -> bool:
        return len(list(data.parent.parent.glob("shared.damaged-*"))) == 1 and len(statuses) > before + 100

    await place.until(set_aside)
    stop.set()
    await asyncio.gather(*loads)
    assert set(statuses) == {200}
    assert pids == {worker["pid"] for worker in place.service.workers()}
    assert (await place.outcomes(12, "after")).count("miss") <= 2
    assert (await place.outcomes(12, "after")) == ["hit"] * 12


async def test_popular_answers_are_warm_before_they_are_asked_for() -> None:
    """What was asked again and again is renewed by one worker without any caller, and no more when that is paused."""
    warm = {"ttl": "2s", "ttl_jitter": 0, "warming": {"enabled": True, "interval": "1s", "preload_popular": False}}
    with running(cache=warm) as place:
        for _ in range(8):
            await place.ask()
        await place.ask("asked once")
        asked = len(place.upstream.asked)

        async def renewed() -> bool:
            return len(place.upstream.asked) >= asked + 2

        await place.until(renewed, 25)
        assert {one["messages"][0]["content"] for one in place.upstream.asked[asked:]} == {"hello"}
        answer = await place.ask()
        assert answer.headers["x-cache"] == "hit"
        assert answer.json()["id"] != "chatcmpl-1"
        assert (await place.shows("/metrics/cache/warming"))["warmed"] >= 1
        await place.admin("POST", "/api/cache/pause-warming")
        await asyncio.sleep(0.3)
        held = len(place.upstream.asked)
        await asyncio.sleep(2.2)
        assert len(place.upstream.asked) == held
