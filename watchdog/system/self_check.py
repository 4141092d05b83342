"""The agent looks at itself: can it still run, start processes, reach its own machine, write? Never a remote host."""

from __future__ import annotations

import asyncio
import resource
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from watchdog.clock import Clock
from watchdog.core.observer import SelfCheck

LATE_SECONDS = 0.5
"""An event loop that is later than this measures its own lateness rather than the world."""
EACH_SECONDS = 3.0
DESCRIPTORS_SHARE = 0.9


async def look_at_self(clock: Clock, state_dir: Path) -> SelfCheck:
    """Every look, together within some seconds; what cannot be looked at in time is a fault too."""
    faults: list[str] = []
    for look in (_loop, _loopback, _process, _descriptors, _writable):
        try:
            async with asyncio.timeout(EACH_SECONDS):
                found = await look(clock, state_dir)
        except TimeoutError:
            found = f"{_WHAT[look]} took longer than {EACH_SECONDS:g} s"
        except OSError as error:
            found = f"{_WHAT[look]} failed: {error}"
        if found:
            faults.append(found)
    return SelfCheck(clock.now(), tuple(faults))


async def _loop(clock: Clock, _state_dir: Path) -> str:
    began = clock.now()
    await asyncio.sleep(0.01)
    late = clock.now() - began - 0.01
    return f"its event loop is {late * 1000:.0f} ms late" if late > LATE_SECONDS else ""


async def _loopback(_clock: Clock, _state_dir: Path) -> str:
    arrived = asyncio.Event()

    def take(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await arrived.wait()
        writer.close()
        await writer.wait_closed()
    return ""


async def _process(_clock: Clock, _state_dir: Path) -> str:
    process = await asyncio.create_subprocess_exec("/bin/true")
    return "" if await process.wait() == 0 else "a process that only has to end well did not"


async def _descriptors(_clock: Clock, _state_dir: Path) -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = _open_descriptors()
    return f"{used} of its {limit} file descriptors are used" if used > DESCRIPTORS_SHARE * limit else ""


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def _writable(_clock: Clock, state_dir: Path) -> str:
    def write() -> None:
        with tempfile.TemporaryFile(dir=state_dir) as file:
            file.write(b"x" * 4096)

    await asyncio.to_thread(write)
    return ""


_WHAT: dict[Callable[[Clock, Path], Awaitable[str]], str] = {
    _loop: "taking turns in its event loop",
    _loopback: "reaching itself over loopback",
    _process: "starting a process",
    _descriptors: "counting its file descriptors",
    _writable: "writing to its state directory",
}
