"""What systemd hears of the daemon's life: readiness, signs of life, and requests for more time while work goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from watchdog.system.service_manager import ServiceManager

MORE_SECONDS = 60.0
"""How much time is asked for from each step of a long piece of work on: more than any single step takes."""
_ASK_EVERY_SECONDS = 1.0


class Signs:
    """Of one daemon. `headline` is its state in a line."""

    def __init__(self, environment: Mapping[str, str], headline: Callable[[], str]) -> None:
        self._manager = ServiceManager(environment)
        self._headline = headline
        self._asked_at = 0.0

    def ready(self) -> None:
        """Everything was measured once, and what was left over is looked after."""
        self._manager.tell("READY=1", self._headline())

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """The configuration is read meanwhile."""
        self._manager.tell("RELOADING=1")
        try:
            yield
        finally:
            self._manager.tell("READY=1")

    def stopping(self) -> None:
        """The end has begun."""
        self._manager.tell("STOPPING=1")

    def advanced(self, doing: str) -> None:
        """A piece of work that delays the start or the end has come one step further. Only what calls this at each
        step gets more time; what hangs does not. `doing` is for people."""
        now = time.monotonic()
        if now - self._asked_at >= _ASK_EVERY_SECONDS:
            self._asked_at = now
            self._manager.tell(f"EXTEND_TIMEOUT_USEC={MORE_SECONDS * 1e6:.0f}", doing)

    async def feed(self, fit: Callable[[], bool]) -> None:
        """WATCHDOG=1 again and again, whenever it is `fit`. Does not return."""
        limit = self._manager.watchdog_seconds
        while True:
            await asyncio.sleep(min(5.0, limit / 3) if limit else 5.0)
            if fit():
                self._manager.tell("WATCHDOG=1", self._headline())

    def close(self) -> None:
        """Says nothing any more."""
        self._manager.close()
