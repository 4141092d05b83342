"""A machine's time that passes only when nobody has anything to do: an event loop that jumps to its next event."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class Time:
    """Seconds since the machine came up, which never go back, and how its wall clock is set."""

    def __init__(self) -> None:
        self.uptime = 0.0
        self.offset = 1_000_000.0


class AgentClock:
    """As `SystemClock`: it anchors the wall clock once, when the agent starts, and is steady from then on."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self._anchor = time.offset

    def now(self) -> float:
        return self._anchor + self._time.uptime

    def wall(self) -> float:
        return self._time.offset + self._time.uptime


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting it lets the time pass at once."""

    def __init__(self, time: Time) -> None:
        super().__init__()
        self._time = time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not found and timeout is None:
            raise RuntimeError("nothing will ever happen again, and somebody waits for it")
        if not found and timeout:
            self._time.uptime += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """Sleeping costs nothing. Files and sockets work; threads and child processes would not be waited for."""

    def __init__(self, time: Time) -> None:
        super().__init__(_JumpingSelector(time))
        self._machine_time = time
        self.failures: list[BaseException] = []
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._machine_time.uptime

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody caught; the test looks at it in the end."""
        self.failures.append(context.get("exception") or RuntimeError(str(context["message"])))
