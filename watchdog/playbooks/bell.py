"""Wakes every task that waits for the world to change."""

from __future__ import annotations

import asyncio

from watchdog.playbooks.turns import Turns


class Bell:
    """`ring` wakes all who `wait`, who then take `turns`; nobody has to be there."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.turns = Turns()

    def ring(self) -> None:
        """Wakes all present waiters."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        """Waits for the next ring, `seconds` at the most; whether it rang."""
        rang = True
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._event.wait()
        except TimeoutError:
            rang = False
        await self.turns.mine()
        return rang
