"""Of equal requests at one time one is asked of a provider, and the others wait for its answer: in this worker by
futures, between workers by a lock on one byte of a file, which the kernel takes from a holder that dies.

The first one flies; when it lands with an answer in the cache all others find it there. If it fails or its caller goes
away, one of the others takes over and the rest wait on. If its answer is good but not for keeping, they all go alone,
and so do equal requests for a while.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import TypeVar

from proxy.clock import Clock
from proxy.eager import in_task

_POLL_SECONDS = 0.02
_ALONE_SECONDS = 30.0
_MOST_ALONE = 1024
_LOCK = struct.Struct("hhqqi4x")
"""`struct flock` of Linux on 64 bits: type, whence, start, length, pid."""
_FIRST_BYTE = 1
"""Byte 0 is the keeper's."""

T = TypeVar("T")


class Landing(Enum):
    """How a flight came to its end."""

    KEPT = auto()
    """The answer is in the cache."""
    UNKEPT = auto()
    """There was a good answer, which is not for the cache."""
    FAILED = auto()
    """There was none, or its caller went away."""


@dataclass(slots=True)
class Flight:
    """One request in the air, or in another worker's, and who waits for it here."""

    key: bytes
    waiting: deque[asyncio.Future[Landing]] = field(default_factory=deque)


class Flights:
    """Of one cache in one worker. `path` is a file that all workers lock."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Makes the file. OSError if that cannot be done."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._clock = clock
        self._flying: dict[bytes, Flight] = {}
        self._alone: dict[bytes, float] = {}

    def close(self) -> None:
        """Gives every lock back."""
        os.close(self._file)

    def keeper(self) -> bool:
        """Whether this worker is, from now on until it ends, the one that cares for the cache; the same one each time
        while it lives."""
        return self._locked(fcntl.F_WRLCK, 0)

    async def join(self, key: bytes, find: Callable[[], T | None], patience: float) -> Flight | T | None:
        """What another one's flight brought, as `find` sees it; or a flight of one's own, which must `land`; or None:
        go alone. Waits at most `patience` seconds. `find` is asked after a wait only: that another one has landed in
        the microseconds since the caller's own look-up costs one request too many, and looking again each time more."""
        if (until := self._alone.get(key)) is not None:
            if self._clock.monotonic() < until:
                return None
            del self._alone[key]
        if key in self._flying:
            await in_task()
        flight = self._flying.get(key)
        if flight is None:
            flight = self._flying[key] = Flight(key)
            if self._locked(fcntl.F_WRLCK, _place(key)):
                return flight
            return await self._await_others(flight, find, patience)
        deadline = self._clock.monotonic() + patience
        match await self._await_turn(flight, patience):
            case Landing.KEPT:
                return find()
            case Landing.FAILED:
                if self._locked(fcntl.F_WRLCK, _place(key)):
                    return self._unless_found(flight, find)
                return await self._await_others(flight, find, deadline - self._clock.monotonic())
            case _:
                return None

    def land(self, flight: Flight, landing: Landing, *, unlock: bool = True) -> None:
        """Ends a flight that `join` gave. With `unlock` False the other workers go on waiting until `unlock`."""
        if landing is Landing.FAILED:
            self._pass_on(flight)
            return
        self._flying.pop(flight.key, None)
        if landing is Landing.UNKEPT:
            if len(self._alone) >= _MOST_ALONE:
                self._alone.clear()
            self._alone[flight.key] = self._clock.monotonic() + _ALONE_SECONDS
        if unlock:
            self.unlock(flight.key)
        self._tell_all(flight, landing)

    def unlock(self, key: bytes) -> None:
        """Lets the other workers have it."""
        self._locked(fcntl.F_UNLCK, _place(key))

    def _unless_found(self, flight: Flight, find: Callable[[], T | None]) -> Flight | T:
        """Another worker's flight may have landed between our look-up and our lock."""
        found = find()
        if found is None:
            return flight
        self.land(flight, Landing.KEPT)
        return found

    async def _await_others(self, flight: Flight, find: Callable[[], T | None], patience: float) -> Flight | T | None:
        """Waits for another worker's flight, on behalf of all who wait for it here."""
        deadline = self._clock.monotonic() + patience
        try:
            await in_task()
            while self._clock.monotonic() < deadline:
                await asyncio.sleep(_POLL_SECONDS)
                if self._locked(fcntl.F_WRLCK, _place(flight.key)):
                    return self._unless_found(flight, find)
                found = find()
                if found is not None:
                    self._flying.pop(flight.key, None)
                    self._tell_all(flight, Landing.KEPT)
                    return found
        except BaseException:
            self._pass_on(flight)
            raise
        self._pass_on(flight)
        return None

    async def _await_turn(self, flight: Flight, patience: float) -> Landing:
        """How the flight landed; FAILED means that it is ours now. UNKEPT when patience has run out."""
        turn: asyncio.Future[Landing] = asyncio.get_running_loop().create_future()
        flight.waiting.append(turn)
        try:
            async with asyncio.timeout(patience):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.result() is Landing.FAILED:
                self._pass_on(flight)
            elif turn in flight.waiting:
                flight.waiting.remove(turn)
            if isinstance(error, TimeoutError):
                return Landing.UNKEPT
            raise

    def _pass_on(self, flight: Flight) -> None:
        """Makes the next who waits the one that flies; nobody waits: the flight is over."""
        while flight.waiting:
            turn = flight.waiting.popleft()
            if not turn.done():
                turn.set_result(Landing.FAILED)
                return
        self._flying.pop(flight.key, None)
        self.unlock(flight.key)

    def _tell_all(self, flight: Flight, landing: Landing) -> None:
        while flight.waiting:
            turn = flight.waiting.popleft()
            if not turn.done():
                turn.set_result(landing)

    def _locked(self, kind: int, place: int) -> bool:
        """Changes the lock on one byte, which belongs to this open file; False if another one holds it."""
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, place, 1, 0))
        except (BlockingIOError, PermissionError):
            return False
        return True


def _place(key: bytes) -> int:
    return (int.from_bytes(key[:8], "big") >> 2) + _FIRST_BYTE
