"""A memory agent in this process, what is planted around it, and what the kernel says of its children."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from proxy.memory import MemoryAgent

PATIENCE = 60.0
PLANTED = "/srv/planted.py"
_SOURCE = """\
def many(number):
    return [bytes(1000 + index % 7) for index in range(number)]

def few(number):
    return [bytearray(5000) for _ in range(number)]

def through(number):
    return few(number)
"""


def planted() -> SimpleNamespace:
    """Functions of a file by itself, so that nothing else allocates on its lines: 2 and 5."""
    functions: dict[str, Any] = {}
    exec(compile(_SOURCE, PLANTED, "exec"), functions)
    return SimpleNamespace(**functions)


class Asker:
    """Asks an agent as a control socket would."""

    def __init__(self, agent: MemoryAgent) -> None:
        self.agent = agent

    async def __call__(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """The document of an answer that must be good."""
        status, document = await self.agent.handle(method, tuple(path.strip("/").split("/")), body)
        assert status == 200, document
        return document

    async def refused(self, method: str, path: str, **body: Any) -> tuple[int, str]:
        """Status and text of one that must not be."""
        status, document = await self.agent.handle(method, tuple(path.strip("/").split("/")), body)
        assert status != 200, document
        return status, document["error"]


@asynccontextmanager
async def mounted(directory: Path, **more: Any) -> AsyncIterator[Asker]:
    """An agent that is closed in any case."""
    agent = MemoryAgent(directory, **more)
    try:
        yield Asker(agent)
    finally:
        await agent.close()


async def until(holds: Callable[[], Any], what: str) -> Any:
    """What `holds` returns once it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < deadline, f"in vain: {what}"
        await asyncio.sleep(0.005)
    return found


def children(pid: int | None = None) -> set[int]:
    """The processes that this one has forked and not yet waited for, zombies too."""
    pid = pid or os.getpid()
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


def set_up(child: int) -> bool:
    """Whether it has done with what it inherits, and is at work; its place with the OOM killer is nearly the last."""
    return Path(f"/proc/{child}/oom_score_adj").read_text() == "1000\n"


def descriptors_open() -> int:
    """Of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def alive(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
