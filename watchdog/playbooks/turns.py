"""Turns at the event loop, for what hundreds may want to do at the same moment: one by one, with others in between."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """Whoever has a turn may work until its next `await`, and in between the loop looks after everybody else: with
    hundreds in line, a request is held up by a few turns and not by all of them. Alone, nobody waits."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._free = True

    async def mine(self) -> None:
        """Returns at one's turn."""
        loop = asyncio.get_running_loop()
        if self._free:
            self._free = False
            loop.call_soon(self._next)
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        """In the loop's next round: the turn is over, the next one begins."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                # The one whose turn it is runs in the next round, and this after it.
                loop.call_soon(self._next)
                return
        self._free = True
