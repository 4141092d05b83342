"""The schedule over a real event loop: what the machine's clock does to it."""

from __future__ import annotations

import asyncio

from watchdog.clock import SystemClock
from watchdog.schedule import Pace, Schedule


class Settable(SystemClock):
    """The machine's clock as somebody sets it."""

    set_by = 0.0

    def wall(self) -> float:
        return super().wall() + self.set_by


async def test_a_clock_that_was_set_back_stops_no_job() -> None:
    """Planned by a clock that is then set back by an hour, a job runs at once and at its pace again."""
    clock = Settable()
    clock.set_by = 3600.0
    schedule = Schedule(clock)
    ran = asyncio.Semaphore(0)

    async def work() -> None:
        ran.release()

    schedule.every("job", Pace(0.05), work)
    schedule.start()
    try:
        clock.set_by = 0.0
        schedule.follow_clock()
        async with asyncio.timeout(45):
            for _ in range(3):
                await ran.acquire()
    finally:
        schedule.stop()
        # APScheduler ends in the loop's next turn.
        await asyncio.sleep(0)


async def test_a_clock_that_was_set_begins_no_job_that_has_its_times() -> None:
    """What is due at three in the morning does not run at noon because somebody set the clock; a paced job does."""
    clock = Settable()
    schedule = Schedule(clock)
    ran: list[str] = []
    paced = asyncio.Semaphore(0)

    async def recurring() -> None:
        ran.append("recurring")

    async def pacing() -> None:
        ran.append("paced")
        paced.release()

    schedule.recur("yearly", recurring, cron="0 3 29 2 *")
    schedule.recur("hourly", recurring, interval=3600.0)
    schedule.every("job", Pace(3600.0), pacing, at_once=False)
    schedule.start()
    try:
        clock.set_by = -7200.0
        schedule.follow_clock()
        clock.set_by = 0.0
        schedule.follow_clock()
        await asyncio.wait_for(paced.acquire(), 45)
        assert ran == ["paced"]
    finally:
        schedule.stop()
        await asyncio.sleep(0)
