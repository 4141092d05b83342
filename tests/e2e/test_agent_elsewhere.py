"""The memory agent in a service that is not ours: one copied file, one call, and the same diagnosis names its leak."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from planted.planting import REPOSITORY
from world import eventually, free_ports

from watchdog.clock import SystemClock
from watchdog.memory import verdict
from watchdog.memory.diagnosis import Plan, observe
from watchdog.memory.findings import LeakKind
from watchdog.system.http import HttpClient
from watchdog.system.memory_agent import MemoryAgent

SERVICE = Path(__file__).with_name("planted") / "small_service.py"
(LEAK,) = [
    number for number, text in enumerate(SERVICE.read_text().splitlines(), 1) if text.endswith("# leak: visitors")
]


@contextlib.asynccontextmanager
async def small_service(place: Path) -> AsyncIterator[str]:
    """Started with a copy of the agent's file, in an interpreter that cannot import ours; gives its URL."""
    shutil.copy(SERVICE, place / "small_service.py")
    shutil.copy(REPOSITORY / "proxy" / "memory.py", place / "memory_agent.py")
    (port,) = free_ports(1)
    argv = [sys.executable, str(place / "small_service.py"), str(port), str(place)]
    process = await asyncio.create_subprocess_exec(*argv, cwd=place)
    try:
        await eventually("the service listens", (place / "memory.sock").is_socket, 30)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def visitors(url: str) -> AsyncIterator[None]:
    """Some dozen a second, as long as the block lasts."""
    stop = asyncio.Event()

    async def visit() -> None:
        async with aiohttp.ClientSession() as session:
            while not stop.is_set():
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with session.get(url) as response:
                        await response.read()
                await asyncio.sleep(0.02)

    visiting = asyncio.create_task(visit())
    try:
        yield
    finally:
        stop.set()
        await visiting


async def test_a_leak_in_a_service_that_is_not_ours_is_named() -> None:
    """Asked over its own private socket, it is traced, its line is named with what a request costs, and then it is
    traced no more."""
    http = HttpClient()
    with tempfile.TemporaryDirectory(prefix="sm-") as name:
        place = Path(name)
        async with small_service(place) as url, visitors(url):
            agent = MemoryAgent(http, "small", "0", place / "memory.sock")
            found = verdict.judge(await observe(agent, Plan(duration=4.0, snapshots=4, quiet=1.0), SystemClock()))
            assert (await agent.memory()).tracing is None
            assert stat.S_IMODE((place / "memory.sock").stat().st_mode) == 0o600
    await http.close()
    assert found.kind is LeakKind.PYTHON, found
    assert (Path(found.places[0].file).name, found.places[0].line) == ("small_service.py", LEAK)
    assert found.places[0].bytes_per_request == pytest.approx(64 * 1024, rel=0.3)


def test_the_example_in_the_documentation_is_what_the_test_mounts() -> None:
    """The lines that the page tells to add stand in the service that was just diagnosed."""
    page = (REPOSITORY / "docs" / "memory-leaks.md").read_text()
    (section,) = re.findall(r"## In your own service\n(.*?)(?=\n## |\Z)", page, re.DOTALL)
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    mounted = {line.strip() for line in SERVICE.read_text().splitlines()}
    added = [line.strip() for line in example.splitlines() if "emory" in line]
    assert added
    assert [line for line in added if line not in mounted] == []
