"""Answers on their way into the cache, beside the cache of another worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from proxy.cache.storage.behind import WriteBehind
from proxy.cache.storage.entry import Fresh
from proxy.cache.storage.store import CacheStore
from proxy.clock import FakeClock, SystemClock
from proxy.settings import CacheLimits
from proxy.shared import Shared

A, B, C = (bytes([number]) * 16 for number in range(3))
BIG = b"x" * 3_000_000


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[CacheStore]:
    shared = Shared(tmp_path / "shared", 64 * 2**20, SystemClock())
    yield CacheStore(shared, "response", CacheLimits(max_entry_kb=4096), SystemClock())
    shared.close()


def behind(cache: CacheStore, clock: FakeClock) -> WriteBehind:
    return WriteBehind(
        lambda answers, generation: cache.put_all(answers, generation) >= 0,
        lambda: cache.totals().generation,
        clock,
    )


async def test_an_answer_after_a_pause_is_everybodys_at_once(cache: CacheStore) -> None:
    """Without load each answer is stored before its caller has it."""
    clock = FakeClock()
    gate = behind(cache, clock)
    for key in (A, B):
        gate.put(Fresh(key, b"answer", b""))
        assert cache.get(key) is not None
        clock.advance(0.1)


async def test_answers_that_follow_closely_are_stored_together_by_themselves(cache: CacheStore) -> None:
    """Under load an answer is this worker's at once and everybody's a moment later."""
    gate = behind(cache, FakeClock())
    for key in (A, B, C):
        gate.put(Fresh(key, key, b""))
    assert (gate.get(B), gate.get(C)) == (B, C)
    assert cache.totals().entries == 1
    async with asyncio.timeout(45):
        while cache.totals().entries < 3:
            await asyncio.sleep(0.005)
    assert gate.get(B) is None
    assert {hit.body for key in (A, B, C) if (hit := cache.get(key))} == {A, B, C}


async def test_a_flush_by_another_worker_reaches_what_is_gathered(cache: CacheStore) -> None:
    """What was answered before a flush is neither found nor stored after it."""
    gate = behind(cache, FakeClock())
    gate.put(Fresh(A, b"old", b""))
    gate.put(Fresh(B, b"old", b""))
    cache.flush()
    assert gate.get(B) is None
    gate.put(Fresh(B, b"older", b""))
    cache.flush()
    gate.settle()
    assert cache.totals().entries == 0
    gate.put(Fresh(C, b"new", b""))
    gate.settle()
    assert cache.totals().entries == 1


async def test_little_is_held_back(cache: CacheStore) -> None:
    """Large answers do not pile up in a worker's memory."""
    gate = behind(cache, FakeClock())
    for key in (A, B, C):
        gate.put(Fresh(key, BIG, b""))
    assert cache.totals().entries == 3


async def test_answers_wait_while_the_store_is_busy(cache: CacheStore) -> None:
    """What cannot be stored now is this worker's meanwhile, and everybody's when the store is free again."""
    busy, told = True, list[bytes]()

    def store(answers: Sequence[Fresh], generation: int | None) -> bool:
        return not busy and cache.put_all(answers, generation) >= 0

    gate = WriteBehind(store, lambda: cache.totals().generation, SystemClock())
    gate.put(Fresh(A, b"answer", b""), lambda: told.append(A))
    await asyncio.sleep(0.1)
    assert (gate.get(A), cache.get(A), told) == (b"answer", None, [])
    busy = False
    async with asyncio.timeout(45):
        while not told:
            await asyncio.sleep(0.005)
    assert cache.get(A) is not None
    assert gate.get(A) is None


async def test_answers_do_not_wait_for_ever(cache: CacheStore) -> None:
    """A store that stays busy costs the answers that waited, in bounded time and room; nobody waits for them longer."""
    told: list[bytes] = []
    gate = WriteBehind(lambda _answers, _generation: False, lambda: 0, SystemClock())
    for key in (A, B):
        gate.put(Fresh(key, BIG, b""), lambda key=key: told.append(key))  # type: ignore[misc]
    assert told == [A, B]
    gate.put(Fresh(C, b"small", b""), lambda: told.append(C))
    async with asyncio.timeout(20):
        while told != [A, B, C]:
            await asyncio.sleep(0.02)
    assert gate.get(C) is None
