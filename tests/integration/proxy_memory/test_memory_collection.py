"""A full collection in a process with many objects: what it frees, what it spares the service, and what it leaves."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_bench import children, mounted, until

from proxy import memory

LONG = 50.0


class Circle:
    """Garbage as soon as it is dropped, of two objects; writes down in which process it was finalized."""

    def __init__(self, log: Path | None = None) -> None:
        self.circle = [self]
        self.log = log

    def __del__(self) -> None:
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(f"{os.getpid()}\n")


@pytest.fixture(scope="module")
def crowd() -> Iterator[list[list[int]]]:
    """Too many objects for all to be looked at in this process; what other tests have left behind is gone."""
    gc.collect()
    yield [[] for _ in range(110_000)]
    gc.collect()


@pytest.fixture(autouse=True)
def collector_off() -> Iterator[None]:
    """The collector does nothing of its own accord, so that all that is counted was asked for."""
    gc.disable()
    yield
    gc.enable()


def full_collections() -> int:
    """How many there were so far."""
    return int(gc.get_stats()[2]["collections"])


def grow_old(count: int, log: Path | None = None) -> tuple[list[Circle], list[weakref.ref[Circle]]]:
    """So many in the oldest generation, where nothing but a full collection frees them, and whether they live."""
    circles = [Circle(log) for _ in range(count)]
    gc.collect()
    return circles, [weakref.ref(circle) for circle in circles]


async def test_garbage_is_freed_without_looking_at_everything(tmp_path: Path, crowd: list[list[int]]) -> None:
    """A child finds old circles; they are freed here, each finalized once and in no other process, while what is still
    held lives on and no full collection is made."""
    log = tmp_path / "finalized"
    circles, alive = grow_old(50, log)
    others, spared = grow_old(50, log)
    circles.clear()
    before, running = full_collections(), children()
    async with mounted(tmp_path / "agent") as ask:
        told = await ask("POST", "/gc", search_seconds=LONG)
        pauses = (await ask("GET", "/memory"))["pauses"]
    assert told["found"] >= 100
    assert told["collected"] >= 100
    assert not [each for each in alive if each() is not None]
    assert log.read_text() == f"{os.getpid()}\n" * 50
    assert [each() for each in spared] == others
    assert (full_collections(), children(), len(crowd)) == (before, running, 110_000)
    assert pauses == {"gc": told["pause_ms"]}
    assert told["child_nice"] == 19
    assert not gc.isenabled()


async def test_what_comes_to_life_meanwhile_is_spared(tmp_path: Path, crowd: list[list[int]]) -> None:
    """A circle that a weak reference brings back while a child is still looking is not freed."""
    circles, (reference, *_) = grow_old(50)
    circles.clear()
    before = children()
    async with mounted(tmp_path) as ask:
        collecting = asyncio.create_task(ask("POST", "/gc", search_seconds=LONG))
        first = (await until(lambda: children() - before, "a child")).pop()
        child = (await until(lambda: children() - before - {first}, "the one that looks where it is")).pop()
        os.kill(child, signal.SIGSTOP)
        again = reference()
        os.kill(child, signal.SIGCONT)
        await collecting
    assert again is not None
    assert again.circle == [again]
    del again
    gc.collect()
    assert reference() is None
    assert len(crowd) == 110_000


@pytest.mark.parametrize("why", ["no_room", "too_slow", "too_much"])
async def test_all_at_once_where_there_is_no_other_way(tmp_path: Path, crowd: list[list[int]], why: str) -> None:
    """When there is no memory for a child, or it is too slow, or so much is found that freeing it takes as long, the
    process collects everything itself, and the child is gone."""
    circles, alive = grow_old(60_000 if why == "too_much" else 50)
    circles.clear()
    before, running = full_collections(), children()
    room = (lambda: 10 << 20) if why == "no_room" else memory.head_room
    async with mounted(tmp_path, room=room) as ask:
        told = await ask("POST", "/gc", search_seconds=0 if why == "too_slow" else LONG)
    assert told["collected"] >= 2 * len(alive)
    assert not [each for each in alive if each() is not None]
    assert (full_collections(), children(), len(crowd)) == (before + 1, running, 110_000)


async def test_only_one_child_is_at_work(tmp_path: Path, crowd: list[list[int]]) -> None:
    """While another is, a collection is refused and nothing is collected."""
    before, running = full_collections(), children()
    async with mounted(tmp_path) as ask:
        counting = asyncio.create_task(ask("POST", "/memory/census"))
        child = (await until(lambda: children() - running, "a child")).pop()
        os.kill(child, signal.SIGSTOP)
        refused = await ask.refused("POST", "/gc")
        os.kill(child, signal.SIGCONT)
        await counting
    assert refused == (409, "busy with census")
    assert (full_collections(), len(crowd)) == (before, 110_000)
