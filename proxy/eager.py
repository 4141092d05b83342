"""Starts a coroutine without a task, and gives it one when it first has to wait: what needs no waiting costs none."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any


@types.coroutine
def in_task() -> Generator[None, None, None]:
    """Returns once a task runs this coroutine, at once if one does. To be awaited before anything that waits, or that
    asks for the current task, as `asyncio.timeout` does."""
    if asyncio.current_task() is None:
        yield


def start(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
    """Runs `coroutine` here and now to its end (None) or its `in_task()`, from which the returned task carries on.

    To be called from a callback of the running loop, never from within a task. A coroutine that waits for something
    without `in_task()` gets a RuntimeError.
    """
    try:
        awaited = coroutine.send(None)
        while awaited is not None:
            awaited = coroutine.throw(RuntimeError(f"{awaited!r} was awaited before in_task()"))
    except StopIteration:
        return None
    return loop.create_task(coroutine)
