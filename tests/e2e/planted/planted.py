"""Leaks, and what only looks like one, planted into a copy of the proxy. No part of the program.

`planting.py` copies this file beside the proxy's own and has the proxy call `on_request` for each request. Which case a
worker has is said by the file that PLANTED_CASES names: {"cases": {"<slot>": "<case>"}, "provider": <port>}.
"""

from __future__ import annotations

import asyncio
import collections
import ctypes
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

_BLOCK = 64 * 1024
_DRIP_PER_SECOND = 128 * 1024
"""One MB an hour, where eight seconds stand for an hour."""

_requests = itertools.count()
_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = (ctypes.c_size_t,)
_libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)


# --- leaks ------------------------------------------------------------------------------------------------------------

_KEPT: list[bytearray] = []


def global_list() -> None:
    _KEPT.append(bytearray(_BLOCK))  # leak: global_list


_ANSWERS: dict[int, bytes] = {}


def unbounded_cache() -> None:
    number = next(_requests)
    _ANSWERS[number] = number.to_bytes(8) * (_BLOCK // 8)  # leak: unbounded_cache


_CALLBACKS: list[Callable[[], int]] = []


def closure() -> None:
    body = bytearray(_BLOCK)  # leak: closure
    _CALLBACKS.append(lambda: len(body))


_TO_CLOSE: list[Session] = []


class Session:
    """Refers to itself, and its end brings it back to be closed later, which nobody does."""

    def __init__(self) -> None:
        self.owner = self
        self.buffer = bytearray(_BLOCK)  # leak: cycle

    def __del__(self) -> None:
        _TO_CLOSE.append(self)


def cycle() -> None:
    Session()


_TASKS: set[asyncio.Task[None]] = set()


async def _wait_for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def task() -> None:
    _TASKS.add(asyncio.get_running_loop().create_task(_wait_for_ever()))  # leak: task


_ANSWERING: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
_ASKING: set[asyncio.Task[None]] = set()


async def _ask(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)  # leak: response
    writer.write(b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    _ANSWERING.append((reader, writer))


def response() -> None:
    if next(_requests) % 4 == 0:
        asking = asyncio.get_running_loop().create_task(_ask(_told.provider))
        _ASKING.add(asking)
        asking.add_done_callback(_ASKING.discard)


def native() -> None:
    _libc.memset(_libc.malloc(_BLOCK), 1, _BLOCK)


_DRIPS: list[tuple[float, bytes]] = []


def drip() -> None:
    now = time.monotonic()
    since = now - _DRIPS[-1][0] if _DRIPS else 0.0
    _DRIPS.append((now, os.urandom(int(since * _DRIP_PER_SECOND))))  # leak: drip


# --- innocents --------------------------------------------------------------------------------------------------------

_COMPILED: dict[int, bytearray] = {}


def warm_up() -> None:
    """A table of all that can occur: often new at first, less and less, then never."""
    number = next(_requests)
    kind = (number * 2654435761 >> 16) % 48
    if kind not in _COMPILED:
        _COMPILED[kind] = bytearray(_BLOCK)


_RECENT: collections.deque[bytearray] = collections.deque(maxlen=24)


def plateau() -> None:
    _RECENT.append(bytearray(_BLOCK))


def traffic() -> None:
    """So much for each request that came within the last half second."""
    body = bytearray(4 * _BLOCK)
    asyncio.get_running_loop().call_later(0.5, lambda: len(body))


_BATCH: list[bytearray] = []


def saw_tooth() -> None:
    _BATCH.append(bytearray(4 * _BLOCK))
    if len(_BATCH) >= 8:
        _BATCH.clear()


CASES = {
    case.__name__: case
    for case in (
        global_list,
        unbounded_cache,
        closure,
        cycle,
        task,
        response,
        native,
        drip,
        warm_up,
        plateau,
        traffic,
        saw_tooth,
    )
}


# --- for the bench ----------------------------------------------------------------------------------------------------

_HEAP_BYTES = 200 * 2**20
_HEAP: list[list[bytes]] = []
_BEAT_SECONDS = 0.005
_beating: list[asyncio.Task[None]] = []


async def _beat(file: Path) -> None:
    """Writes down when the loop was late, and by how much: `<monotonic> <seconds>`, as soon as it can."""
    with file.open("w", buffering=1) as out:
        while True:
            due = time.monotonic() + _BEAT_SECONDS
            await asyncio.sleep(_BEAT_SECONDS)
            late = time.monotonic() - due
            if late > 0.001:
                out.write(f"{due:.6f} {late:.6f}\n")


def large_heap() -> None:
    """A heap of 200 MB of small objects from the first request on, and a leak of 4 KB a request besides."""
    if not _HEAP:
        _HEAP.extend([number.to_bytes(40)] for number in range(_HEAP_BYTES // 140))
        _beating.append(asyncio.get_running_loop().create_task(_beat(_told.file.with_name(f"late-{_told.slot}"))))
    _KEPT.append(bytearray(4096))  # leak: large_heap


class _Told:
    """What PLANTED_CASES said when it was last read."""

    def __init__(self) -> None:
        self.cases: dict[str, str] = {}
        self.provider = 0
        self.file = Path(os.environ.get("PLANTED_CASES", "cases.json"))
        self.slot = ""
        self._until = 0.0

    def look(self) -> None:
        if time.monotonic() < self._until:
            return
        self._until = time.monotonic() + 0.2
        told = json.loads(self.file.read_text())
        self.cases, self.provider = told["cases"], told["provider"]
        self.slot = Path("/proc/self/comm").read_text().strip().removeprefix("llm-proxy-w")

    @property
    def case(self) -> str | None:
        return self.cases.get(self.slot)


_told = _Told()


def on_request() -> None:
    """What the proxy calls for each request, in the loop."""
    _told.look()
    if (name := _told.case) is not None:
        (large_heap if name == "large_heap" else CASES[name])()
