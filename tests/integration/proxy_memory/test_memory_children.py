"""The forked child: what it keeps of its parent, what it may take, and how it ends."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from agent_bench import PATIENCE, Asker, alive, children, descriptors_open, mounted, set_up, until

from proxy import memory

ALLOWED = 64 << 20
OF_THE_C_LIBRARY = 0b11 << 31
"""Signals 32 and 33, which it keeps for its threads."""


class Dummy:
    """Something for a census to count."""


@pytest.fixture(scope="module")
def crowd() -> Iterator[list[Dummy]]:
    """So many objects that a census of them can be interrupted."""
    yield [Dummy() for _ in range(150_000)]
    gc.collect()


@asynccontextmanager
async def stopped_census(ask: Asker) -> AsyncIterator[tuple[asyncio.Task[tuple[int, dict[str, object]]], int]]:
    """A census whose child is stopped (SIGSTOP) after it has set itself up: the caller's task and the child."""
    before = children()
    asking = asyncio.create_task(ask.agent.handle("POST", ("memory", "census"), {}))
    pid = (await until(lambda: children() - before, "a child")).pop()
    await until(lambda: set_up(pid), "the child to have set itself up")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield asking, pid
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_a_child_keeps_nothing_of_its_parent(tmp_path: Path, crowd: list[Dummy]) -> None:
    """No connection, listener or file of the service, no signal handler; it comes last for the processor and first for
    the OOM killer."""
    here, there = socket.socketpair()
    async with mounted(tmp_path) as ask, stopped_census(ask) as (_, pid):
        targets = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert len(targets) == 2
        assert "/dev/null" in targets
        assert (targets - {"/dev/null"}).pop().startswith("pipe:")
        assert (int(status["SigCgt"], 16) & ~OF_THE_C_LIBRARY, int(status["SigBlk"], 16)) == (0, 0)
        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16] == "19"
        there.close()
        assert here.recv(1) == b""
    here.close()
    assert len(crowd) == 150_000


async def test_one_at_a_time_and_whoever_leaves_takes_his_child_along(tmp_path: Path, crowd: list[Dummy]) -> None:
    """A second call is told who is at work; when the caller is cancelled the child is killed and waited for, and the
    next call goes ahead."""
    descriptors = descriptors_open()
    async with mounted(tmp_path) as ask:
        async with stopped_census(ask) as (asking, pid):
            assert await ask.refused("POST", "/memory/census") == (409, "busy with census")
            assert (await ask("GET", "/memory"))["busy"] == "census"
            asking.cancel()
            await until(lambda: pid not in children(), "the child to be gone")
        await until(lambda: not ask.agent._busy, "the agent to be ready again")
        assert (await ask("POST", "/memory/census", top=1))["objects"] >= len(crowd)
    assert descriptors_open() == descriptors


async def test_closing_the_agent_ends_its_child(tmp_path: Path, crowd: list[Dummy]) -> None:
    """Whoever waits is told; nobody is left behind."""
    async with mounted(tmp_path) as ask, stopped_census(ask) as (asking, pid):
        await ask.agent.close()
        assert pid not in children()
        assert await asking == (500, {"error": "the child was killed by SIGKILL"})


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    """Nothing goes on for a service that was killed."""
    script = (
        "import asyncio, pathlib, signal, sys\n"
        "from proxy.memory import MemoryAgent\n"
        "async def main():\n"
        "    agent = MemoryAgent(pathlib.Path(sys.argv[1]))\n"
        "    await agent._in_child('waiting', signal.pause, 1 << 26)\n"
        "asyncio.run(main())\n"
    )
    root = Path(memory.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=root) as parent:
        child = asyncio.run(until(lambda: children(parent.pid), "a child")).pop()
        asyncio.run(until(lambda: set_up(child), "the child to have set itself up"))
        parent.kill()
        parent.wait(PATIENCE)
    asyncio.run(until(lambda: not alive(child), "the child to die"))


async def test_a_child_is_held_to_what_was_allowed(tmp_path: Path) -> None:
    """What it needs beyond is refused as a lack of memory, and so is what there is no room for from the start, with the
    figures, before anything is done."""
    others = children()
    async with mounted(tmp_path) as ask:
        with pytest.raises(memory.Refused, match="more than the 64 MiB allowed to it was needed") as refused:
            await ask.agent._in_child("greed", lambda: {"much": len(bytearray(8 * ALLOWED))}, ALLOWED)
        assert refused.value.status == 503
    async with mounted(tmp_path, room=lambda: 10 << 20) as ask:
        for method, path in (("POST", "/memory/census"), ("POST", "/memory/trace")):
            status, error = await ask.refused(method, path)
            assert status == 503
            assert error.endswith("MiB, and 10 MiB are free to this process")
        assert (await ask("GET", "/memory"))["tracing"] is None
    assert children() == others


async def test_a_child_that_crashes_hurts_nobody(tmp_path: Path) -> None:
    """A bad address ends the child only; its parent is told how, and works on."""
    others = children()
    async with mounted(tmp_path) as ask:
        with pytest.raises(memory.ChildDied, match="the child was killed by SIGSEGV") as died:
            await ask.agent._in_child("crash", lambda: {"text": ctypes.string_at(8)}, ALLOWED)
        assert died.value.crashed
        with pytest.raises(memory.Refused, match="ZeroDivisionError: "):
            await ask.agent._in_child("fault", lambda: {"number": 1 // 0}, ALLOWED)
        assert await ask.agent._in_child("sum", lambda: {"number": 3}, ALLOWED)
    assert children() == others


async def test_fifty_snapshots_leave_nothing_behind(tmp_path: Path) -> None:
    """No zombie, no descriptor, no task, and no more files than are kept."""
    async with mounted(tmp_path, keep=5) as ask:
        await ask("POST", "/memory/trace")
        await ask("POST", "/memory/snapshots")
        await asyncio.sleep(0)
        descriptors, tasks, others = descriptors_open(), len(asyncio.all_tasks()), children()
        for _ in range(50):
            taken = await ask("POST", "/memory/snapshots")
            assert taken["pause_ms"] > 0
        await asyncio.sleep(0)
        assert children() == others
        assert (descriptors_open(), len(asyncio.all_tasks())) == (descriptors, tasks)
        assert len(list(tmp_path.iterdir())) == 5
