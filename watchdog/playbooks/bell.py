"""Wakes every task that waits for the world to change."""

from __future__ import annotations

import asyncio

from watchdog.playbooks.turns import Turns

CROWD = 32
CROWD_SECONDS = 2.0
"""A crowd is woken so often only: hundreds that look again at every measurement would leave no time to measure."""


class Bell:
    """`ring` wakes all who `wait`, who then take `turns`; nobody has to be there."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._present = 0
        self._later: asyncio.TimerHandle | None = None
        self.turns = Turns()

    def ring(self) -> None:
        """Wakes all present waiters: a crowd of them in a moment, with all who came meanwhile."""
        if self._present <= CROWD:
            self._ring()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(CROWD_SECONDS, self._ring)

    def _ring(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """Waits for the next ring, `seconds` at the most; whether it rang."""
        rang = True
        self._present += 1
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._event.wait()
        except TimeoutError:
            rang = False
        finally:
            self._present -= 1
        await self.turns.mine()
        return rang
