"""Runs one program to its end: bounded time, bounded output, no shell, no inherited standard input."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
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


async def run_command(argv: Sequence[str], *, timeout: float) -> CommandResult:
    """Raises ActionError if the program cannot be started or is not done after `timeout` seconds; its whole process
    group is ended then."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ActionError(f"{argv[0]}: cannot be started: {error.strerror}", permanent=True) from error
    try:
        async with asyncio.timeout(timeout):
            output = await _read(process)
            status = await process.wait()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if isinstance(error, TimeoutError):
            raise ActionError(f"{argv[0]}: not done after {timeout:g} s, ended") from None
        raise
    return CommandResult(status, output.decode(errors="replace"))


async def _read(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    kept = b""
    while chunk := await process.stdout.read(65536):
        kept = (kept + chunk)[-OUTPUT_LIMIT:]
    return kept
