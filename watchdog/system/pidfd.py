"""Waits for the end of a process that need not be our child, as the kernel announces it (pidfd_open(2))."""

from __future__ import annotations

import asyncio
import os


async def wait_exit(pid: int) -> None:
    """Returns when the process `pid` has ended, or at once if there is none. Zombies count as ended.

    Whoever fears that the number was reused checks the identity after the descriptor is open: see `process.wait_exit`.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    await wait_readable(descriptor)


async def wait_readable(pidfd: int) -> None:
    """Returns when the process behind `pidfd` has ended. Takes the descriptor over and closes it in any case."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def announce() -> None:
        loop.remove_reader(pidfd)
        if not ended.done():
            ended.set_result(None)

    try:
        loop.add_reader(pidfd, announce)
        await ended
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
