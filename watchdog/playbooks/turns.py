"""Turns at the event loop, for what hundreds may want to do at the same moment: one by one, with others in between."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Whoever has a turn may work until its next `await`. The next turn comes as long after as the last one took, so
    that however many wait, the loop has at least half of its time for everybody else. Alone, nobody waits."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._free = True
        self._began = 0.0

    async def mine(self) -> None:
        """Returns at one's turn."""
        loop = asyncio.get_running_loop()
        if self._free:
            self._free = False
            self._began = loop.time()
            loop.call_soon(self._ended)
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _ended(self) -> None:
        """In the loop's next round: the turn is over."""
        loop = asyncio.get_running_loop()
        loop.call_later(loop.time() - self._began, self._next)

    def _next(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                self._began = loop.time()
                turn.set_result(None)
                # The one whose turn it is runs in the next round, and this after it.
                loop.call_soon(self._ended)
                return
        self._free = True
