"""The response cache on a real LMDB, alone and under several processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.cache.storage.edit import Totals
from proxy.cache.storage.entry import OVERHEAD_BYTES, About, Fresh, unpack
from proxy.cache.storage.store import CacheStore
from proxy.clock import FakeClock
from proxy.settings import CacheLimits
from proxy.shared import Shared

MAP_BYTES = 64 * 2**20


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def shared(tmp_path: Path, clock: FakeClock) -> Iterator[Shared]:
    store = Shared(tmp_path / "shared", MAP_BYTES, clock)
    yield store
    store.close()


def put(cache: CacheStore, key: bytes, body: bytes) -> int:
    return cache.put_all([Fresh(key, body, b"")])


def limits(**changes: Any) -> CacheLimits:
    return CacheLimits.model_validate({"max_size_mb": 1, "max_entries": 100, **changes})


def alive(cache: CacheStore, key: bytes) -> bool:
    found = cache.get(key)
    return found is not None and found.expired < 0


def recount(shared: Shared, prefix: str = "cache_") -> tuple[int, int, int, int]:
    """Entries, and bytes, order and expiry entries as the databases really hold them."""
    with shared.read() as txn:
        bodies = list(txn.cursor(db=shared.database(f"{prefix}bodies")))
        entries = dict(txn.cursor(db=shared.database(f"{prefix}entries")))
        assert {key for key, _ in bodies} == set(entries)
        return (
            txn.stat(shared.database(f"{prefix}entries"))["entries"],
            sum(len(body) + len(unpack(entries[key]).packed_about) + OVERHEAD_BYTES for key, body in bodies),
            txn.stat(shared.database(f"{prefix}recency"))["entries"],
            txn.stat(shared.database(f"{prefix}expiry"))["entries"],
        )


def consistent(shared: Shared, totals: Totals, prefix: str = "cache_") -> bool:
    return recount(shared, prefix) == (totals.entries, totals.size_bytes, totals.entries, totals.entries)


def test_cache_gives_back_what_was_stored(shared: Shared, clock: FakeClock) -> None:
    """An answer is found under its key with its age, another key finds nothing."""
    cache = CacheStore(shared, "response", limits(), clock)
    put(cache, key(1), b"answer")
    clock.advance(7)
    hit = cache.get(key(1))
    assert hit is not None
    assert (hit.body, round(hit.age)) == (b"answer", 7)
    assert cache.get(key(2)) is None


def test_cache_forgets_after_the_ttl_with_jitter(shared: Shared, clock: FakeClock) -> None:
    """Entries stored together expire between 90 % and 110 % of the TTL, not all at once."""
    cache = CacheStore(shared, "response", limits(ttl="100s"), clock)
    keys = [bytes([share]) + bytes(15) for share in (0, 255)]
    for each in keys:
        put(cache, each, b"x")
    clock.advance(89)
    assert all(alive(cache, each) for each in keys)
    clock.advance(6)
    assert [alive(cache, each) for each in keys] == [False, True]
    clock.advance(16)
    assert not alive(cache, keys[1])
    assert cache.evict(expired=True, fraction=None) == 2
    assert (cache.totals().expired, cache.totals().entries, cache.totals().size_bytes) == (2, 0, 0)


def test_cache_keeps_an_answer_as_long_as_it_was_asked_to(shared: Shared, clock: FakeClock) -> None:
    """A lifetime that came with the answer holds to the second, without jitter."""
    cache = CacheStore(shared, "response", limits(ttl="100s"), clock)
    cache.put_all([Fresh(key(1), b"x", b"", ttl=500.0)])
    clock.advance(499)
    assert alive(cache, key(1))
    clock.advance(2)
    assert not alive(cache, key(1))


def test_cache_evicts_the_least_recently_used(shared: Shared, clock: FakeClock) -> None:
    """When the threshold is passed the entries unused for longest go, and a recent hit saves an old entry."""
    cache = CacheStore(shared, "response", limits(max_entries=10, eviction_threshold=1, eviction_batch_size=2), clock)
    for number in range(10):
        put(cache, key(number), b"x")
        clock.advance(1)
    cache.share(1, 0, {key(0): (1, clock.wall())})
    clock.advance(1)
    assert put(cache, key(10), b"x") == 2
    assert [number for number in range(11) if cache.get(key(number))] == [0, 3, 4, 5, 6, 7, 8, 9, 10]
    assert consistent(shared, cache.totals())


def test_cache_evicts_the_least_frequently_used(shared: Shared, clock: FakeClock) -> None:
    """Under LFU an entry that was used often outlives those that were used later but seldom."""
    lfu = limits(max_entries=10, eviction_threshold=1, eviction_batch_size=2, strategy="lfu")
    cache = CacheStore(shared, "response", lfu, clock)
    for number in range(10):
        put(cache, key(number), b"x")
    cache.share(0, 0, {key(0): (5, clock.wall())})
    clock.advance(9)
    cache.share(0, 0, {key(number): (1, clock.wall()) for number in range(3, 10)})
    assert put(cache, key(10), b"x") == 2
    assert [number for number in range(11) if cache.get(key(number))] == [0, 3, 4, 5, 6, 7, 8, 9, 10]
    assert consistent(shared, cache.totals())


def test_cache_lfu_forgets_old_fame(shared: Shared, clock: FakeClock) -> None:
    """An entry that was used a hundred times and then never again goes at last, for evictions age what stays."""
    lfu = limits(max_entries=5, eviction_threshold=1, eviction_batch_size=1, strategy="lfu")
    cache = CacheStore(shared, "response", lfu, clock)
    put(cache, key(0), b"x")
    cache.share(0, 0, {key(0): (100, clock.wall())})
    gone_after = None
    for number in range(1, 2000):
        put(cache, key(number), b"x")
        cache.share(0, 0, {key(number): (1, clock.wall())})
        clock.advance(0.001)
        if cache.get(key(0)) is None:
            gone_after = number
            break
    assert gone_after is not None
    assert gone_after > 50


def test_cache_expired_entries_go_before_living_ones(shared: Shared, clock: FakeClock) -> None:
    """Making room takes what has expired first, although it was used last."""
    cache = CacheStore(shared, "response", limits(max_entries=4, eviction_threshold=1), clock)
    brief = CacheStore(shared, "response", limits(max_entries=4, eviction_threshold=1, ttl="1s"), clock)
    for number in range(3):
        put(cache, key(number), b"x")
        clock.advance(1)
    put(brief, key(3), b"x")
    clock.advance(2)
    put(cache, key(4), b"x")
    assert [cache.get(key(number)) is not None for number in range(5)] == [True, True, True, False, True]
    assert cache.totals().expired == 1


def test_cache_size_is_kept_below_its_limit(shared: Shared, clock: FakeClock) -> None:
    """The bytes never pass the limit, whatever the sizes; an entry larger than allowed is left out."""
    cache = CacheStore(shared, "response", limits(max_size_mb=0.1, max_entry_kb=20), clock)
    for number in range(200):
        put(cache, key(number), b"x" * (number * 97 % 9000))
        clock.advance(0.01)
        assert cache.totals().size_bytes <= 0.1 * 2**20
    assert consistent(shared, cache.totals())
    put(cache, key(1000), b"x" * 20 * 1024 + b"x")
    assert cache.get(key(1000)) is None


def test_cache_large_entries_do_not_empty_it(shared: Shared, clock: FakeClock) -> None:
    """An eviction stops as soon as there is room again, however large its batch may be."""
    cache = CacheStore(
        shared, "response", limits(max_size_mb=1, eviction_threshold=0.8, eviction_batch_size=100), clock
    )
    for number in range(20):
        put(cache, key(number), b"x" * 100_000)
        clock.advance(1)
    assert cache.totals().entries >= 6


def test_cache_evicts_a_fraction_and_flushes(shared: Shared, clock: FakeClock) -> None:
    """A fraction is rounded up and taken from the oldest; a flush empties everything and is counted."""
    cache = CacheStore(shared, "response", limits(), clock)
    for number in range(9):
        put(cache, key(number), b"x")
        clock.advance(1)
    assert cache.evict(expired=False, fraction=0.5) == 5
    assert cache.get(key(4)) is None
    assert cache.get(key(5)) is not None
    assert cache.flush() == 4
    totals = cache.totals()
    assert (totals.evictions, totals.flushes, totals.generation, totals.size_bytes) == (5, 1, 1, 0)
    assert consistent(shared, cache.totals())


def test_cache_replaces_an_entry_without_counting_it_twice(shared: Shared, clock: FakeClock) -> None:
    """Storing under a known key leaves one entry of the new size."""
    cache = CacheStore(shared, "response", limits(), clock)
    put(cache, key(1), b"long answer")
    put(cache, key(1), b"short")
    totals = cache.totals()
    assert (totals.size_bytes, totals.entries, totals.serial) == (5 + OVERHEAD_BYTES, 1, 2)
    found = cache.get(key(1))
    assert found is not None
    assert found.body == b"short"
    assert consistent(shared, cache.totals())


def test_cache_survives_a_full_map(tmp_path: Path, clock: FakeClock) -> None:
    """When the map itself is full the cache makes room or does without, and stays in step."""
    shared = Shared(tmp_path / "small", 2**20, clock)
    cache = CacheStore(shared, "response", limits(max_size_mb=64, max_entries=100_000), clock)
    for number in range(400):
        put(cache, key(number), b"x" * 9000)
        clock.advance(0.01)
    totals = cache.totals()
    assert 0 < totals.entries < 400
    assert totals.evictions > 0
    assert consistent(shared, totals)
    shared.close()


def test_cache_hit_rate_fades(shared: Shared, clock: FakeClock) -> None:
    """The hit rate follows the latest ten thousand look-ups."""
    cache = CacheStore(shared, "response", limits(), clock)
    assert cache.totals().hit_rate == 0.0
    for _ in range(20):
        cache.share(1000, 0, {})
    for _ in range(20):
        cache.share(0, 1000, {})
    assert cache.totals().hit_rate < 0.2


TEXT = b"the same words again and again, " * 200


@pytest.mark.parametrize("algorithm", ["gzip", "zlib"])
def test_cache_keeps_large_answers_compressed(shared: Shared, clock: FakeClock, algorithm: str) -> None:
    """An answer above the size counts with its compressed size and comes back as it was; a small one stays plain."""
    how = {"enabled": True, "algorithm": algorithm, "min_size_kb": 1}
    cache = CacheStore(shared, "response", limits(compression=how), clock)
    put(cache, key(1), TEXT)
    put(cache, key(2), b"small")
    assert cache.totals().size_bytes < 600 + 2 * OVERHEAD_BYTES
    for reader in (cache, CacheStore(shared, "response", limits(), clock)):
        assert [found.body for number in (1, 2) if (found := reader.get(key(number)))] == [TEXT, b"small"]
    compressed = {item.key: item.entry.compressed for item in cache.page(b"", 10)}
    assert compressed == {key(1): True, key(2): False}
    assert consistent(shared, cache.totals())


def test_cache_does_without_a_body_that_is_spoilt(shared: Shared, clock: FakeClock) -> None:
    """A compressed body that cannot be inflated is a miss."""
    cache = CacheStore(shared, "response", limits(compression=True), clock)
    put(cache, key(1), TEXT)
    with shared.write() as txn:
        txn.put(key(1), b"spoilt", db=shared.database("cache_bodies"))
    assert cache.get(key(1)) is None


def test_cache_in_hand_follows_the_store(shared: Shared, clock: FakeClock) -> None:
    """What a worker has in hand counts no more once another one has replaced or flushed it."""
    mine, other = (CacheStore(shared, "response", limits(compression=True), clock) for _ in range(2))
    put(mine, key(1), TEXT)
    assert alive(mine, key(1))
    assert mine.hot.size_bytes == len(TEXT)
    put(other, key(1), TEXT.upper())
    found = mine.get(key(1))
    assert found is not None
    assert found.body == TEXT.upper()
    other.flush()
    assert mine.get(key(1)) is None


def test_caches_do_not_meet(shared: Shared, clock: FakeClock) -> None:
    """Each of the two caches has its own entries, totals and flushes."""
    response, summary = CacheStore(shared, "response", limits(), clock), CacheStore(shared, "summary", limits(), clock)
    put(response, key(1), b"answer")
    put(summary, key(1), b"summary")
    assert [found.body for cache in (response, summary) if (found := cache.get(key(1)))] == [b"answer", b"summary"]
    assert response.flush() == 1
    assert summary.totals().entries == 1
    assert consistent(shared, response.totals())
    assert consistent(shared, summary.totals(), "summary_")


def test_cache_of_another_version_is_left_behind(shared: Shared, clock: FakeClock) -> None:
    """The first start with a new version empties the cache, the next ones do not."""
    CacheStore(shared, "response", limits(version="1"), clock).prepare()
    cache = CacheStore(shared, "response", limits(version="1"), clock)
    put(cache, key(1), b"x")
    assert cache.prepare() == 0
    newer = CacheStore(shared, "response", limits(version="2"), clock)
    assert newer.prepare() == 1
    assert newer.totals().flushes == 1
    put(newer, key(2), b"x")
    assert CacheStore(shared, "response", limits(version="2"), clock).prepare() == 0
    assert newer.totals().entries == 1


def test_cache_of_another_layout_is_begun_anew(shared: Shared, clock: FakeClock) -> None:
    """What an older program left, and cannot be read, is dropped at the first start."""
    with shared.write() as txn:
        txn.put(key(1), b"old", db=shared.database("cache_entries"))
        txn.put(b"cache totals", b"old", db=shared.database("meta"))
    cache = CacheStore(shared, "response", limits(), clock)
    cache.prepare()
    assert cache.page(b"", 10) == []
    assert cache.totals() == Totals()


def test_cache_is_paged_in_the_order_of_keys(shared: Shared, clock: FakeClock) -> None:
    """Pages together are all entries once, each with what it is about."""
    cache = CacheStore(shared, "response", limits(), clock)
    about = About("chat", "v1", "key:anna#notes", "gpt-x")
    cache.put_all([Fresh(key(number), b"body %d" % number, about.pack()) for number in range(7)])
    seen, after = [], b""
    while page := cache.page(after, 3, bodies=True):
        seen += [(item.key, item.kept) for item in page]
        assert {item.entry.about for item in page} == {about}
        after = page[-1].key
    assert seen == [(key(number), b"body %d" % number) for number in range(7)]


def test_cache_removes_what_was_seen_and_nothing_newer(shared: Shared, clock: FakeClock) -> None:
    """An entry that was replaced since it was looked at stays; what was gathered before is not stored afterwards."""
    cache = CacheStore(shared, "response", limits(), clock)
    put(cache, key(1), b"old")
    put(cache, key(2), b"old")
    seen = {item.key: item.entry.serial for item in cache.page(b"", 10)}
    generation = cache.totals().generation
    put(cache, key(2), b"new")
    assert cache.remove(seen) == 1
    assert [cache.get(key(number)) is not None for number in (1, 2)] == [False, True]
    assert cache.put_all([Fresh(key(3), b"x", b"")], generation) == 0
    assert cache.get(key(3)) is None
    assert cache.totals().invalidated == 1


def test_cache_gives_way_to_memory_pressure(shared: Shared, clock: FakeClock) -> None:
    """Batches go down to the share that is asked for, what has expired first; an emergency leaves nothing."""
    cache = CacheStore(shared, "response", limits(max_entries=100, eviction_threshold=1), clock)
    for number in range(100):
        put(cache, key(number), b"x")
        clock.advance(0.01)
    assert cache.relieve(30, down_to=0.1) == 30
    assert cache.get(key(29)) is None
    assert cache.get(key(30)) is not None
    while cache.relieve(30, down_to=0.1):
        pass
    assert cache.totals().entries == 10
    while cache.relieve(30, down_to=0.0):
        pass
    assert cache.totals().entries == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 30), st.integers(0, 30_000)),
        st.tuples(st.just("hit"), st.integers(0, 30), st.integers(1, 5)),
        st.tuples(st.just("wait"), st.integers(0, 60), st.just(0)),
        st.tuples(st.just("evict"), st.integers(1, 10), st.just(0)),
        st.tuples(st.just("flush"), st.just(0), st.just(0)),
        st.tuples(st.just("relieve"), st.integers(1, 10), st.just(0)),
        st.tuples(st.just("remove"), st.integers(0, 30), st.just(0)),
    ),
    max_size=40,
)


def do(cache: CacheStore, clock: FakeClock, kind: str, number: int, amount: int) -> None:
    match kind:
        case "put":
            put(cache, key(number), bytes([number]) * amount)
        case "hit":
            cache.share(amount, 0, {key(number): (amount, clock.wall())})
        case "wait":
            clock.advance(number)
        case "evict":
            cache.evict(expired=True, fraction=number / 10)
        case "flush":
            cache.flush()
            assert cache.page(b"", 1) == []
        case "relieve":
            cache.relieve(number, down_to=0.1)
        case "remove":
            cache.remove({item.key: item.entry.serial for item in cache.page(key(number), 3)})


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=STEPS, strategy=st.sampled_from(["lru", "lfu"]), compression=st.booleans())
def test_cache_limits_hold_whatever_happens(
    shared: Shared, clock: FakeClock, steps: list[tuple[str, int, int]], strategy: str, compression: bool
) -> None:
    """After each step, in whatever order, the limits hold, and totals and indexes are what the databases hold."""
    small = limits(max_size_mb=0.1, max_entries=12, ttl="100s", strategy=strategy, compression=compression)
    cache = CacheStore(shared, "response", small, clock)
    cache.flush()
    for step in steps:
        do(cache, clock, *step)
        totals = cache.totals()
        assert totals.entries <= 12
        assert totals.size_bytes <= 0.1 * 2**20
        assert consistent(shared, totals)


_WRITER = """
import sys
from pathlib import Path
from proxy.cache.storage.entry import Fresh
from proxy.cache.storage.store import CacheStore
from proxy.clock import SystemClock
from proxy.settings import CacheLimits
from proxy.shared import Shared, StoreBusyError

directory, seed = Path(sys.argv[1]), int(sys.argv[2])
limits = CacheLimits.model_validate({"max_size_mb": 0.2, "max_entries": 60, "eviction_batch_size": 5})
cache = CacheStore(Shared(directory, 64 * 2**20, SystemClock()), "response", limits, SystemClock())
done = worst = 0
for number in range(1500):
    key = ((number * 7 + seed) % 150).to_bytes(16, "big")
    try:
        if cache.get(key) is None:
            cache.put_all([Fresh(key, bytes([65 + seed]) * (number * 131 % 6000), b"")])
        done += 1
        totals = cache.totals()
        worst = max(worst, totals.entries / 60, totals.size_bytes / (0.2 * 2**20))
    except StoreBusyError:
        pass
print(done, worst)
"""


def test_cache_limits_hold_under_two_processes(tmp_path: Path) -> None:
    """Two processes that store at once never pass a limit, and the totals stay exact."""
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "shared")]
    writers = [subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True) for seed in range(2)]
    for writer in writers:
        output, _ = writer.communicate(timeout=60)
        done, worst = output.split()
        assert writer.returncode == 0
        assert int(done) > 600
        assert float(worst) <= 1.0
    shared = Shared(tmp_path / "shared", MAP_BYTES, FakeClock())
    totals = CacheStore(shared, "response", limits(), FakeClock()).totals()
    assert totals.entries > 0
    assert totals.evictions > 0
    assert consistent(shared, totals)
    shared.close()
