"""What operators ask of the caches: export and import, invalidation, lists and figures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from cache_workers import World, call, gather, keep, look, outcome, whole
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.cache.operations.inspection import Selector, cursor
from proxy.cache.service import Caches
from proxy.call import Operation
from proxy.errors import ApiError


async def export(caches: Caches) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(b"".join([part async for part in caches.exported()]))
    return document


async def take_in(caches: Caches, document: object, size: int = 1000) -> dict[str, Any]:
    raw = document if isinstance(document, bytes) else orjson.dumps(document)

    async def parts() -> AsyncIterator[bytes]:
        for at in range(0, len(raw), size):
            yield raw[at : at + size]

    return await caches.imported(parts())


ENTRIES = st.lists(
    st.tuples(st.text(max_size=30), st.booleans(), st.integers(0, 500), st.integers(0, 4)),
    max_size=8,
    unique_by=lambda entry: entry[0],
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(entries=ENTRIES, size=st.integers(1, 5000))
async def test_import_brings_back_what_was_exported(world: World, entries: list[Any], size: int) -> None:
    """After a flush an import restores bodies, ages, expiry, hits and namespaces of both caches, byte for byte."""
    caches = world.worker(cache={"compression": True, "ttl": "1h"}) if not world.workers else world.workers[0][0]
    caches.flush()
    for text, summary, seconds, hits in entries:
        headers = {"x_cache": "summary"} if summary else {}
        await keep(caches, call(text), whole(text * 100), **headers)
        for _ in range(hits):
            await outcome(caches, call(text), **headers)
        world.clock.advance(seconds)
    before = await export(caches)
    assert before["count"] == len(before["entries"]) <= len(entries)
    caches.flush()
    assert (await export(caches))["entries"] == []
    done = await take_in(caches, before, size)
    after = await export(caches)
    alive = [entry for entry in before["entries"] if entry["expires"] > world.clock.wall()]
    assert after["entries"] == alive
    assert done == {
        "imported": len(alive),
        "skipped": {"expired": len(before["entries"]) - len(alive), "other_version": 0, "too_large": 0},
    }


async def test_imported_answers_are_found_by_their_callers(world: World) -> None:
    """An imported answer is a hit with its true age, as whole and as stream, and expires when it would have."""
    caches = world.worker(cache={"ttl": "10m", "ttl_jitter": 0})
    await keep(caches, call())
    world.clock.advance(100)
    document = await export(caches)
    caches.flush()
    await take_in(caches, document)
    _, hit = await look(caches, call())
    assert hit is not None
    assert (hit.body, round(hit.age)) == (whole().body, 100)
    assert await outcome(caches, call(stream=True)) == "hit"
    world.clock.advance(501)
    assert await outcome(caches, call()) == "miss"


async def one_entry(world: World, caches: Caches) -> dict[str, Any]:
    await keep(caches, call())
    document = await export(caches)
    caches.flush()
    return document


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"key": "abc"}, "key: expected 32"),
        ({"key": "z" * 32}, "non-hexadecimal"),
        ({"cache": "other"}, "cache: expected"),
        ({"body": 5}, "body: expected a string"),
        ({"body": "{"}, "body: no answer"),
        ({"body": '{"choices": "x"}'}, "body: no answer"),
        ({"body": '{"choices": [{"message": "x", "finish_reason": "stop"}]}'}, "body: no answer"),
        ({"body": '{"choices": [{"message": {}, "finish_reason": "content_filter"}]}'}, "its own end"),
        ({"operation": "delete"}, "operation: expected"),
        ({"stored": -1}, "stored: expected"),
        ({"stored": True}, "stored: expected"),
        ({"stored": 4e9}, "stored: lies in the future"),
        ({"expires": 1}, "expires: expected"),
        ({"expires": 1e12}, "expires: expected"),
        ({"namespace": None}, "namespace: expected"),
    ],
    ids=lambda value: orjson.dumps(value).decode() if isinstance(value, dict) else "",
)
async def test_corrupt_entry_is_refused_with_its_place(world: World, change: dict[str, Any], says: str) -> None:
    """A wrong entry is a 400 that names its number and field; whole ones before it are kept, nothing of it is."""
    caches = world.worker()
    document = await one_entry(world, caches)
    good = document["entries"][0]
    document["entries"] = [good, good | change, good | {"key": "f" * 32}]
    with pytest.raises(ApiError, match=f"entry 2: .*{says}") as refused:
        await take_in(caches, document)
    assert (refused.value.status, refused.value.code) == (400, "invalid_import")
    assert [entry["key"] for entry in (await export(caches))["entries"]] == [good["key"]]


async def test_corrupt_document_is_refused(world: World) -> None:
    """A document that is cut, of another format, or counts wrongly is a 400; what it held of whole entries is kept."""
    caches = world.worker()
    document = await one_entry(world, caches)
    raw = orjson.dumps(document)
    for wrong, says in (
        (raw[:-20], "cut short"),
        (raw[: raw.index(b'"body"')], "cut short"),
        (orjson.dumps(document | {"format": "other"}), "format: expected"),
        (orjson.dumps(document | {"count": 7}), "count: 1 entries came"),
        (b"[]", "expected an object"),
        (b"", "not JSON"),
        (raw.replace(b'"entries":[{', b'"entries":[{"x" 1,'), "entry 1: not JSON"),
    ):
        with pytest.raises(ApiError, match=says):
            await take_in(caches, wrong)


async def test_import_leaves_out_what_nobody_would_find(world: World) -> None:
    """Entries of another version, expired ones and such as are too large for the limits are counted and left out."""
    old = world.worker(cache={"version": "1", "ttl_jitter": 0})
    for text, size in (("a", 10), ("b", 3000), ("c", 10)):
        await keep(old, call(text), whole("x" * size))
    document = await export(old)
    document["entries"][0]["expires"] = document["entries"][0]["stored"]
    assert (await take_in(world.worker(cache={"version": "2"}), document))["skipped"]["other_version"] == 3
    small = world.worker(cache={"version": "1", "max_entry_kb": 1})
    small.flush()
    done = await take_in(small, document)
    assert done["imported"] + done["skipped"]["expired"] + done["skipped"]["too_large"] == 3
    assert done["skipped"]["expired"] == 1
    assert small.health()["entries"] == done["imported"]


async def invalidate(caches: Caches, **selector: Any) -> int:
    number = (await caches.invalidate(Selector(**selector)))["invalidated"]
    assert isinstance(number, int)
    return number


async def test_invalidation_by_pattern(world: World) -> None:
    """Entries go by model, namespace, operation and age, all that is given together, in one cache or both."""
    caches, other = world.worker(), world.worker()
    await keep(caches, call("1", model="gpt-4o"))
    await keep(caches, call("2", model="gpt-4o-mini"), x_cache_namespace="notes")
    await keep(caches, call("3", model="claude", caller="ben"), x_cache="summary")
    world.clock.advance(7200)
    caches = world.worker(cache={"ttl": "10h"}, summary_cache={"ttl": "10h"})
    await keep(caches, call("4", model="gpt-4o"))
    await keep(caches, call("5", Operation.EMBEDDINGS, model="embed", input="x"))
    assert await invalidate(caches, model="llama*") == 0
    assert await invalidate(caches, model="claude", cache="response") == 0
    assert await invalidate(caches, model="gpt-*", older_than=3600.0, namespace="notes") == 1
    assert await invalidate(other, namespace="ben") == 1
    assert await invalidate(caches, operation="embed*") == 1
    assert await invalidate(caches, older_than=3600.0) == 1
    keys = caches.keys("response", b"", 10)["keys"]
    assert [(key["model"], key["namespace"]) for key in keys] == [("gpt-4o", "key:anna")]
    assert caches.metrics()["invalidated"] == 3


async def test_invalidated_answers_in_hand_count_no_more(world: World) -> None:
    """What another worker has in hand, or gathered, of an invalidated entry is not given to anybody."""
    one, other = world.worker(cache={"compression": True}), world.worker(cache={"compression": True})
    await keep(one, call(), whole("x" * 5000))
    assert await outcome(other, call()) == "hit"
    await gather(other, call("first of those that are gathered"))
    await gather(other, call("gathered"))
    assert await outcome(other, call("gathered")) == "hit"
    await invalidate(one, model="demo-*")
    assert await outcome(other, call()) == "miss"
    assert await outcome(other, call("gathered")) == "miss"


async def test_keys_are_listed_in_pages_without_prompts(world: World) -> None:
    """Pages show what entries are about, their age, size and hits; never what was asked or answered."""
    caches = world.worker()
    for number in range(5):
        await keep(caches, call(f"secret prompt {number}"), whole("secret answer"))
    await outcome(caches, call("secret prompt 0"))
    world.clock.advance(60)
    first = caches.keys("response", b"", 3)
    rest = caches.keys("response", cursor(first["next"]), 3)
    assert (first["entries"], len(first["keys"]), len(rest["keys"]), rest["next"]) == (5, 3, 2, None)
    listed = first["keys"] + rest["keys"]
    assert len({key["id"] for key in listed}) == 5
    assert sorted(key["hits"] for key in listed) == [0, 0, 0, 0, 1]
    assert {key["age_seconds"] for key in listed} == {60.0}
    assert caches.keys("response", cursor(first["keys"][-1]["id"]), 3)["keys"] == rest["keys"]
    assert b"secret" not in orjson.dumps([listed, await caches.stats(), caches.config(), caches.metrics()])


async def test_stats_tell_of_all_entries(world: World) -> None:
    """The oldest and newest ages, models, and how much is compressed, by cache."""
    caches = world.worker(cache={"compression": True})
    assert (await caches.stats())["oldest_entry_age_seconds"] is None
    await keep(caches, call("1"), whole("x" * 5000))
    world.clock.advance(30)
    await keep(caches, call("2", model="other"))
    await keep(caches, call("3"), x_cache="summary")
    world.clock.advance(10)
    stats = await caches.stats()
    assert (stats["oldest_entry_age_seconds"], stats["newest_entry_age_seconds"]) == (40.0, 10.0)
    assert (stats["compressed_entries"], stats["models"]) == (1, {"demo-small": 1, "other": 1})
    assert stats["caches"]["summary"]["entries"] == 1


async def test_flush_leaves_nothing(world: World) -> None:
    """After a flush no worker finds anything, not even what it had in hand or gathered."""
    one, other = world.worker(), world.worker()
    for number in range(5):
        await gather(one, call(str(number)))
        await gather(other, call(str(number)), x_cache="summary")
        await outcome(other, call(str(number)))
    assert one.flush()["flushed"] > 0
    for number in range(5):
        assert await outcome(other, call(str(number))) == "miss"
        assert await outcome(one, call(str(number)), x_cache="summary") == "miss"
    assert (await export(one))["entries"] == []
