"""Equal requests at one time, within a worker and between workers (two open files, as two processes would have)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cache.flights import Flight, Flights, Landing
from proxy.clock import SystemClock

KEY, OTHER = b"k" * 16, b"o" * 16


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[tuple[Flights, Flights]]:
    both = Flights(tmp_path / "flights.lock", SystemClock()), Flights(tmp_path / "flights.lock", SystemClock())
    yield both
    for flights in both:
        flights.close()


class Cache:
    """What is found."""

    def __init__(self) -> None:
        self.answers: dict[bytes, str] = {}

    def find(self) -> str | None:
        return self.answers.get(KEY)


@pytest.fixture
def cache() -> Cache:
    return Cache()


async def join(flights: Flights, cache: Cache, patience: float = 5.0) -> Flight | str | None:
    return await flights.join(KEY, cache.find, patience)


async def lead(flights: Flights, cache: Cache) -> Flight:
    flight = await join(flights, cache)
    assert isinstance(flight, Flight)
    return flight


async def followers(flights: Flights, cache: Cache, number: int) -> list[asyncio.Task[Flight | str | None]]:
    tasks = [asyncio.create_task(join(flights, cache)) for _ in range(number)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in tasks)
    return tasks


async def test_all_have_what_the_first_brings(workers: tuple[Flights, Flights], cache: Cache) -> None:
    """Those who ask meanwhile wait, here and in the other worker, and find the answer when it is there."""
    flight = await lead(workers[0], cache)
    waiting = [*await followers(workers[0], cache, 3), *await followers(workers[1], cache, 3)]
    cache.answers[KEY] = "answer"
    workers[0].land(flight, Landing.KEPT)
    assert await asyncio.gather(*waiting) == ["answer"] * 6
    assert isinstance(await workers[1].join(OTHER, lambda: None, 1), Flight)


async def test_one_takes_over_from_a_failure_and_the_rest_wait_on(
    workers: tuple[Flights, Flights], cache: Cache
) -> None:
    """After a failure exactly one of those who wait flies next, in whichever worker; there is no stampede."""
    flight, owner = await lead(workers[0], cache), workers[0]
    waiting = {task: flights for flights in workers for task in await followers(flights, cache, 3)}
    while waiting:
        owner.land(flight, Landing.FAILED)
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=45)
        await asyncio.sleep(0.05)
        assert [task for task in waiting if task.done()] == list(done)
        (task,) = done
        owner = waiting.pop(task)
        result = task.result()
        assert isinstance(result, Flight)
        flight = result


async def test_next_one_takes_over_at_once_when_the_first_goes_away(
    workers: tuple[Flights, Flights], cache: Cache
) -> None:
    """A caller that goes away while it flies loses the others nothing but a moment; one that waits, nothing at all."""
    flight = await lead(workers[0], cache)
    gone, stays, last = await followers(workers[0], cache, 3)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    began = asyncio.get_running_loop().time()
    workers[0].land(flight, Landing.FAILED)
    taken = await stays
    assert isinstance(taken, Flight)
    assert asyncio.get_running_loop().time() - began < 0.01
    cache.answers[KEY] = "answer"
    workers[0].land(taken, Landing.KEPT)
    assert await last == "answer"


async def test_baton_is_passed_on_by_one_who_leaves_with_it(workers: tuple[Flights, Flights], cache: Cache) -> None:
    """A caller that goes away in the same moment as it is to take over does not take the others with it."""
    flight = await lead(workers[0], cache)
    chosen, last = await followers(workers[0], cache, 2)
    workers[0].land(flight, Landing.FAILED)
    chosen.cancel()
    with pytest.raises(asyncio.CancelledError):
        await chosen
    assert isinstance(await last, Flight)


async def test_waiting_for_another_worker_ends_with_its_caller(workers: tuple[Flights, Flights], cache: Cache) -> None:
    """The one who watches another worker on behalf of all hands that on when its caller goes."""
    flight = await lead(workers[0], cache)
    watcher, next_one = await followers(workers[1], cache, 2)
    watcher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watcher
    cache.answers[KEY] = "answer"
    workers[0].land(flight, Landing.KEPT)
    assert await next_one == "answer"


async def test_good_answer_that_is_not_kept_lets_all_go(workers: tuple[Flights, Flights], cache: Cache) -> None:
    """Nobody waits in line for answers that the cache will never have, now or in the next seconds."""
    flight = await lead(workers[0], cache)
    waiting = await followers(workers[0], cache, 3)
    workers[0].land(flight, Landing.UNKEPT)
    assert await asyncio.gather(*waiting) == [None] * 3
    assert await join(workers[0], cache) is None


async def test_patience_ends(workers: tuple[Flights, Flights], cache: Cache) -> None:
    """Who has waited long enough goes alone, in both workers, and nobody is forgotten for it."""
    flight = await lead(workers[0], cache)
    assert await asyncio.gather(*(join(flights, cache, 0.1) for flights in workers)) == [None, None]
    (patient,) = await followers(workers[1], cache, 1)
    workers[0].land(flight, Landing.FAILED)
    assert isinstance(await patient, Flight)


async def test_others_wait_until_the_answer_is_everybodys(workers: tuple[Flights, Flights], cache: Cache) -> None:
    """An answer that is only gathered yet goes to this worker's own, and to others when it is stored."""
    flight = await lead(workers[0], cache)
    (other,) = await followers(workers[1], cache, 1)
    workers[0].land(flight, Landing.KEPT, unlock=False)
    await asyncio.sleep(0.05)
    assert not other.done()
    cache.answers[KEY] = "answer"
    workers[0].unlock(KEY)
    assert await other == "answer"


_LEADER = """
import asyncio, sys
from pathlib import Path
from proxy.cache.flights import Flights
from proxy.clock import SystemClock

async def main():
    flights = Flights(Path(sys.argv[1]), SystemClock())
    await flights.join(b"k" * 16, lambda: None, 1)
    flights.keeper()
    print("flying", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_death_of_a_worker_frees_its_flights(
    tmp_path: Path, workers: tuple[Flights, Flights], cache: Cache
) -> None:
    """When the worker that flies is killed, another one takes over within moments; its care of the caches likewise."""
    command = [sys.executable, "-c", _LEADER, str(tmp_path / "flights.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"flying\n"
        (waiting,) = await followers(workers[0], cache, 1)
        assert not workers[0].keeper()
        process.kill()
    began = asyncio.get_running_loop().time()
    assert isinstance(await waiting, Flight)
    assert asyncio.get_running_loop().time() - began < 1
    assert workers[0].keeper()
    assert workers[0].keeper()
    assert not workers[1].keeper()
