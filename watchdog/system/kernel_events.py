"""Kernel files that announce a change by an urgent event: /proc/pressure with a trigger, /proc/self/mountinfo."""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Iterator


@contextlib.contextmanager
def announcements(descriptor: int) -> Iterator[asyncio.Event]:
    """An event that is set whenever the kernel announces something on the open file; the caller clears it.

    Several announcements between two looks are one. Raises OSError for a file that cannot announce.
    """
    # Such files count as readable all the time, so the loop itself cannot watch them: a poll of our own, which asks
    # for urgent events only, stands between.
    poll = select.epoll()
    happened = asyncio.Event()

    def take() -> None:
        poll.poll(0)
        happened.set()

    loop = asyncio.get_running_loop()
    try:
        poll.register(descriptor, select.EPOLLPRI)
        loop.add_reader(poll.fileno(), take)
        yield happened
    finally:
        loop.remove_reader(poll.fileno())
        poll.close()
