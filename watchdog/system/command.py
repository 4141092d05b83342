"""Runs one program to its end: bounded time, bounded output, no shell, no inherited standard input."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from watchdog.errors import ActionError

OUTPUT_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Exit status (negative: killed by that signal) and the last part of what it printed."""

    status: int
    output: str

    @property
    def tail(self) -> str:
        """The last non-empty line, shortened."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1][:200] if lines else ""


async def run_command(argv: Sequence[str], *, timeout: float, outlives_us: bool = True) -> CommandResult:
    """Raises ActionError if the program cannot be started or is not done after `timeout` seconds; its whole process
    group is ended then. What it leaves running in the background goes on, and is not waited for. Without `outlives_us`
    the kernel ends the program when this process dies."""
    reading, writing = os.pipe()
    output = _Output(reading)
    try:
        process = await _start(argv if outlives_us else _bound(argv), writing)
        try:
            async with asyncio.timeout(timeout):
                status = await process.wait()
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if isinstance(error, TimeoutError):
                raise ActionError(f"{argv[0]}: not done after {timeout:g} s, ended") from None
            raise
        return CommandResult(status, output.rest().decode(errors="replace"))
    finally:
        output.close()


# Becomes the program after it has asked the kernel for its end with ours (prctl(2), PR_SET_PDEATHSIG). util-linux's
# setpriv would do the same, but touches capabilities too, which a hardened unit forbids; and code between fork and exec
# may find a lock taken by a thread that was not forked.
_BIND = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def _bound(argv: Sequence[str]) -> Sequence[str]:
    """A program that cannot be found is left to say so itself."""
    if shutil.which(argv[0]) is None:
        return argv
    return (sys.executable, "-I", "-S", "-c", _BIND, str(os.getpid()), *argv)


async def _start(argv: Sequence[str], output: int) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ActionError(f"{argv[0]}: cannot be started: {error.strerror}", permanent=True) from error
    finally:
        os.close(output)


class _Output:
    """The last part of what comes through a pipe of our own: asyncio's would wait for every process that holds it."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._kept = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._take)

    def _take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(self._descriptor, OUTPUT_LIMIT)
            self._kept = (self._kept + chunk)[-OUTPUT_LIMIT:]
            if not chunk:
                self._loop.remove_reader(self._descriptor)

    def rest(self) -> bytes:
        """All of it, after the program has ended: what it printed is in the pipe by now, which holds no more than
        one read takes."""
        self._take()
        return self._kept

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
