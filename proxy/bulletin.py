"""Tells everybody who listens of each change, and lets nobody who does not listen fill the memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from proxy.control import Document

_KEPT = 1000
"""Lines that one listener may lag behind before it is dropped."""


class Bulletin:
    """For one event loop."""

    def __init__(self) -> None:
        self._listening: set[asyncio.Queue[Document | None]] = set()

    def tell(self, line: Document) -> None:
        """Tells all that listen now."""
        for queue in list(self._listening):
            if queue.qsize() >= _KEPT:
                self._listening.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(line)

    async def lines(self, first: Callable[[], Document]) -> AsyncIterator[Document]:
        """What `first` says, and then what is told, until the listener lags too far behind."""
        queue: asyncio.Queue[Document | None] = asyncio.Queue()
        self._listening.add(queue)
        try:
            yield first()
            while (line := await queue.get()) is not None:
                yield line
        finally:
            self._listening.discard(queue)
