"""The response cache on a real LMDB, alone and under several processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.cache.store import OVERHEAD_BYTES, ResponseCache, Totals
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


def limits(**changes: Any) -> CacheLimits:
    return CacheLimits.model_validate({"max_size_mb": 1, "max_entries": 100, **changes})


def recount(shared: Shared) -> tuple[int, int, int, int]:
    """Entries, and bytes, recency and expiry entries as the databases really hold them."""
    with shared.read() as txn:
        bodies = list(txn.cursor(db=shared.database("cache_bodies")))
        return (
            txn.stat(shared.database("cache_entries"))["entries"],
            sum(len(body) + OVERHEAD_BYTES for _, body in bodies),
            txn.stat(shared.database("cache_recency"))["entries"],
            txn.stat(shared.database("cache_expiry"))["entries"],
        )


def consistent(shared: Shared, totals: Totals) -> bool:
    return recount(shared) == (totals.entries, totals.size_bytes, totals.entries, totals.entries)


def test_cache_gives_back_what_was_stored(shared: Shared, clock: FakeClock) -> None:
    """An answer is found under its key with its age, another key finds nothing."""
    cache = ResponseCache(shared, limits(), clock)
    cache.put(key(1), b"answer")
    clock.advance(7)
    hit = cache.get(key(1))
    assert hit is not None
    assert (hit.body, round(hit.age)) == (b"answer", 7)
    assert cache.get(key(2)) is None


def test_cache_forgets_after_the_ttl_with_jitter(shared: Shared, clock: FakeClock) -> None:
    """Entries stored together expire between 90 % and 110 % of the TTL, not all at once."""
    cache = ResponseCache(shared, limits(ttl="100s"), clock)
    keys = [bytes([share]) + bytes(15) for share in (0, 255)]
    for each in keys:
        cache.put(each, b"x")
    clock.advance(89)
    assert all(cache.get(each) for each in keys)
    clock.advance(6)
    assert [cache.get(each) is None for each in keys] == [True, False]
    clock.advance(16)
    assert cache.get(keys[1]) is None
    assert cache.evict(expired=True, fraction=None) == 2
    assert cache.totals() == Totals(expired=2)


def test_cache_evicts_the_least_recently_used(shared: Shared, clock: FakeClock) -> None:
    """When the threshold is passed the entries unused for longest go, and a recent hit saves an old entry."""
    cache = ResponseCache(shared, limits(max_entries=10, eviction_threshold=1, eviction_batch_size=2), clock)
    for number in range(10):
        cache.put(key(number), b"x")
        clock.advance(1)
    clock.advance(5)
    assert cache.get(key(0))
    clock.advance(1)
    assert cache.put(key(10), b"x") == 2
    assert [number for number in range(11) if cache.get(key(number))] == [0, 3, 4, 5, 6, 7, 8, 9, 10]
    assert consistent(shared, cache.totals())


def test_cache_expired_entries_go_before_living_ones(shared: Shared, clock: FakeClock) -> None:
    """Making room takes what has expired first, although it was used last."""
    cache = ResponseCache(shared, limits(max_entries=4, eviction_threshold=1), clock)
    brief = ResponseCache(shared, limits(max_entries=4, eviction_threshold=1, ttl="1s"), clock)
    for number in range(3):
        cache.put(key(number), b"x")
        clock.advance(1)
    brief.put(key(3), b"x")
    clock.advance(2)
    cache.put(key(4), b"x")
    assert [cache.get(key(number)) is not None for number in range(5)] == [True, True, True, False, True]


def test_cache_size_is_kept_below_its_limit(shared: Shared, clock: FakeClock) -> None:
    """The bytes never pass the limit, whatever the sizes; an entry larger than allowed is left out."""
    cache = ResponseCache(shared, limits(max_size_mb=0.1, max_entry_kb=20), clock)
    for number in range(200):
        cache.put(key(number), b"x" * (number * 97 % 9000))
        clock.advance(0.01)
        assert cache.totals().size_bytes <= 0.1 * 2**20
    assert consistent(shared, cache.totals())
    cache.put(key(1000), b"x" * 20 * 1024 + b"x")
    assert cache.get(key(1000)) is None


def test_cache_large_entries_do_not_empty_it(shared: Shared, clock: FakeClock) -> None:
    """An eviction stops as soon as there is room again, however large its batch may be."""
    cache = ResponseCache(shared, limits(max_size_mb=1, eviction_threshold=0.8, eviction_batch_size=100), clock)
    for number in range(20):
        cache.put(key(number), b"x" * 100_000)
        clock.advance(1)
    assert cache.totals().entries >= 6


def test_cache_evicts_a_fraction_and_flushes(shared: Shared, clock: FakeClock) -> None:
    """A fraction is rounded up and taken from the oldest; a flush empties everything and is counted."""
    cache = ResponseCache(shared, limits(), clock)
    for number in range(9):
        cache.put(key(number), b"x")
        clock.advance(1)
    assert cache.evict(expired=False, fraction=0.5) == 5
    assert cache.get(key(4)) is None
    assert cache.get(key(5)) is not None
    assert cache.flush() == 4
    assert cache.totals() == Totals(evictions=5, flushes=1)
    assert consistent(shared, cache.totals())


def test_cache_replaces_an_entry_without_counting_it_twice(shared: Shared, clock: FakeClock) -> None:
    """Storing under a known key leaves one entry of the new size."""
    cache = ResponseCache(shared, limits(), clock)
    cache.put(key(1), b"long answer")
    cache.put(key(1), b"short")
    assert cache.totals() == Totals(size_bytes=5 + OVERHEAD_BYTES, entries=1)
    assert consistent(shared, cache.totals())


def test_cache_survives_a_full_map(tmp_path: Path, clock: FakeClock) -> None:
    """When the map itself is full the cache makes room or does without, and stays in step."""
    shared = Shared(tmp_path / "small", 2**20, clock)
    cache = ResponseCache(shared, limits(max_size_mb=64, max_entries=100_000), clock)
    for number in range(400):
        cache.put(key(number), b"x" * 9000)
        clock.advance(0.01)
    totals = cache.totals()
    assert 0 < totals.entries < 400
    assert totals.evictions > 0
    assert consistent(shared, totals)
    shared.close()


def test_cache_hit_rate_fades(shared: Shared, clock: FakeClock) -> None:
    """The hit rate follows the latest ten thousand look-ups."""
    cache = ResponseCache(shared, limits(), clock)
    assert cache.totals().hit_rate == 0.0
    for _ in range(20):
        cache.count(1000, 0)
    for _ in range(20):
        cache.count(0, 1000)
    assert cache.totals().hit_rate < 0.2


_WRITER = """
import sys
from pathlib import Path
from proxy.cache.store import ResponseCache
from proxy.clock import SystemClock
from proxy.settings import CacheLimits
from proxy.shared import Shared, StoreBusyError

directory, seed = Path(sys.argv[1]), int(sys.argv[2])
limits = CacheLimits.model_validate({"max_size_mb": 0.2, "max_entries": 60, "eviction_batch_size": 5})
cache = ResponseCache(Shared(directory, 64 * 2**20, SystemClock()), limits, SystemClock())
done = worst = 0
for number in range(1500):
    key = ((number * 7 + seed) % 150).to_bytes(16, "big")
    try:
        if cache.get(key) is None:
            cache.put(key, bytes([65 + seed]) * (number * 131 % 6000))
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
        assert int(done) > 750
        assert float(worst) <= 1.0
    shared = Shared(tmp_path / "shared", MAP_BYTES, FakeClock())
    totals = ResponseCache(shared, limits(), FakeClock()).totals()
    assert totals.entries > 0
    assert totals.evictions > 0
    assert consistent(shared, totals)
    shared.close()
