"""When to show again what may have changed: after every ring of the bell, neither too often nor too seldom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from watchdog.playbooks.bell import Bell


async def frames(bell: Bell, stop: asyncio.Event, *, shortest: float, longest: float) -> AsyncGenerator[None]:
    """Yields at once and then after each ring, at least `shortest` and at most `longest` seconds apart, until `stop`.

    No ring is missed: listening for the next one begins before the caller looks.
    """
    ended = asyncio.create_task(stop.wait())
    rung = pause = None
    try:
        while not stop.is_set():
            rung = asyncio.create_task(bell.wait(longest))
            pause = asyncio.create_task(asyncio.sleep(shortest))
            await asyncio.sleep(0)  # from here on the first of the two listens
            yield
            await asyncio.wait({rung, ended}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({pause, ended}, return_when=asyncio.FIRST_COMPLETED)
            rung.cancel()
            pause.cancel()
    finally:
        for task in (ended, rung, pause):
            if task is not None:
                task.cancel()
