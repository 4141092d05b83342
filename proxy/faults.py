"""Real faults on demand (`POST /debug/fault`, admin key, only with `faults: true`), for demonstrations and drills."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from proxy.errors import ApiError
from proxy.exchange import Plain, Request, document, json_object

_MAX_SECONDS = 600.0
_MAX_LEAK_MB = 4096.0
_CRASH_EXIT_CODE = 70
_SLICE_SECONDS = 0.02
_leaked: list[bytearray] = []
_burning: set[asyncio.Task[None]] = set()


async def inject(request: Request) -> Plain:
    """`{"kind": "block", "seconds": N}`, `{"kind": "burn", "seconds": N}`, `{"kind": "crash"}` or `{"kind": "leak",
    "mb": N}`, in this very worker."""
    body = json_object(request.body)
    answer: dict[str, Any] = {"kind": body.get("kind"), "pid": os.getpid()}
    match body.get("kind"):
        case "block":
            hold_the_event_loop(_number(body, "seconds", _MAX_SECONDS))
        case "burn":
            burning = asyncio.create_task(keep_busy(_number(body, "seconds", _MAX_SECONDS)))
            _burning.add(burning)
            burning.add_done_callback(_burning.discard)
        case "crash":
            os._exit(_CRASH_EXIT_CODE)
        case "leak":
            answer["leaked_mb"] = leak(_number(body, "mb", _MAX_LEAK_MB))
        case kind:
            raise ApiError(400, f"kind: expected block, burn, crash or leak, not {kind!r}.", param="kind")
    return document(answer)


def hold_the_event_loop(seconds: float) -> None:
    """Computes without ever awaiting, as a careless handler would; stack dumps name this function."""
    end = time.monotonic() + seconds
    turns = 0
    while time.monotonic() < end:
        turns += 1


async def keep_busy(seconds: float) -> None:
    """Computes all the time and lets others have their turn, as a task does that runs wild."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        hold_the_event_loop(_SLICE_SECONDS)
        await asyncio.sleep(0)


def leak(mb: float) -> float:
    """Keeps `mb` more MiB for ever, every page of it written; returns how many are kept by now."""
    _leaked.append(bytearray(b"\x01") * int(mb * 1024 * 1024))
    return sum(map(len, _leaked)) / 1024 / 1024


def _number(body: dict[str, Any], name: str, most: float) -> float:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ApiError(400, f"{name}: expected a number above 0 and at most {most:g}, not {value!r}.", param=name)
    return float(value)
