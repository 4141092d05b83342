"""How old a worker may become: as configured, and younger for a while where an operator ordered it.

What was ordered never lets a worker become older than the configuration does, outlives the master in a file of the
state directory, and ends by itself. Workers that are too old give way one at a time, each at a moment of its own.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proxy.children import Child
from proxy.clock import Clock
from proxy.control import Answer, Document
from proxy.rolling import Rolling
from proxy.slots import State
from proxy.supervision import Slot

_LOOK_SECONDS = 1.0
_RELIEF_SECONDS = 60.0
"""When a fresh worker could not take over, none is tried for so long."""
_JITTER = 0.1
"""Workers end up to this share earlier than they must, each by a part of its own, so that they do not end together."""
_LONGEST_SECONDS = 30 * 86400.0
_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class Order:
    """An age in seconds that was ordered until `until`. Times are wall seconds."""

    seconds: float
    since: float
    until: float
    reason: str


class Ageing:
    """Over the slots of one master; `configured` is the age in seconds of the configuration, 0 without one."""

    def __init__(
        self,
        slots: Mapping[int, Slot],
        rolling: Rolling,
        configured: Callable[[], float],
        file: Path,
        clock: Clock,
        say: Callable[[str], None],
    ) -> None:
        self._slots = slots
        self._rolling = rolling
        self._configured = configured
        self._file = file
        self._clock = clock
        self._say = say
        self._order = self._read()
        self._relief_until = 0.0

    async def live(self) -> None:
        """Replaces whoever is too old; for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Replaces those that are too old now, one at a time, each gone before the next one's turn."""
        limit = self._limit()
        if limit is None or self._clock.monotonic() < self._relief_until:
            return
        for slot in list(self._slots.values()):
            child = slot.child
            if slot.state is not State.SERVING or child is None or not self._too_old(child, limit):
                continue
            answer = await self._rolling.alone(slot, {"expect_pid": child.pid, "reason": "age"})
            if answer.status != 200:
                self._relief_until = self._clock.monotonic() + _RELIEF_SECONDS
                self._say(f"{child.name} (pid {child.pid}) is too old and could not be replaced: {answer.document}")
                return

    def ask(self, body: Document) -> Answer:
        """`seconds` for `for_seconds`, and why; `seconds` 0 ends what was ordered. What is in force afterwards."""
        fault, seconds, lasting = _fault(body), body.get("seconds", 0), body.get("for_seconds", 0)
        if fault is not None:
            return Answer(400, {"error": fault})
        now = self._clock.wall()
        order = None
        if seconds:
            order = Order(float(seconds), now, now + lasting, str(body.get("reason", ""))[:_LONGEST_REASON])
        try:
            self._write(order)
        except OSError as error:
            return Answer(503, {"error": f"{self._file} cannot be written: {error.strerror}"})
        self._order = order
        return Answer(200, self.told())

    def told(self) -> Document:
        """The age that is in force (null: any), what is configured (0: none), and what was ordered, if anything."""
        order = self._in_force()
        return {
            "seconds": self._limit(),
            "configured_seconds": self._configured(),
            "ordered": None if order is None else asdict(order),
        }

    def _in_force(self) -> Order | None:
        return self._order if self._order is not None and self._clock.wall() < self._order.until else None

    def _limit(self) -> float | None:
        order, configured = self._in_force(), self._configured()
        ages = [age for age in (configured, order.seconds if order else 0.0) if age > 0]
        return min(ages, default=None)

    def _too_old(self, child: Child, limit: float) -> bool:
        part = zlib.crc32(child.incarnation.encode()) / 2**32
        return child.serving is not None and (self._clock.monotonic() - child.serving >= limit * (1.0 - _JITTER * part))

    def _read(self) -> Order | None:
        try:
            return Order(**json.loads(self._file.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            self._say(f"what was ordered about the age of workers is lost: {self._file}: {error}")
            return None

    def _write(self, order: Order | None) -> None:
        if order is None:
            self._file.unlink(missing_ok=True)
            return
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(order)))
        fresh.replace(self._file)


def _fault(body: Document) -> str | None:
    """What is wrong with an order, in words."""
    seconds, lasting = body.get("seconds"), body.get("for_seconds")
    if seconds != 0 and not _is_between(1, seconds):
        return f"seconds: expected 0, or 1 to {_LONGEST_SECONDS:.0f}, not {seconds!r}"
    if seconds != 0 and not _is_between(0, lasting):
        return f"for_seconds: expected 0 to {_LONGEST_SECONDS:.0f}, not {lasting!r}"
    if not isinstance(body.get("reason", ""), str):
        return "reason: expected text"
    return None


def _is_between(least: float, value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= _LONGEST_SECONDS
