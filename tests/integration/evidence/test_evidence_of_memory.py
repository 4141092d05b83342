"""A worker that the kernel kills for want of memory: a real one, in a control group of the test's own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from planted_evidence import context_of, taken

from watchdog.system.proxy_api.answers import MasterStatus, WorkerStatus

MIB = 1024 * 1024


class Master:
    """Its two processes: the master of the group, and what became of its worker."""

    def __init__(self, pid: int, worker: WorkerStatus) -> None:
        self.answer = MasterStatus(pid=pid, started_at=0.0, state="serving", workers=(worker,))

    async def status(self) -> MasterStatus:
        return self.answer


@pytest.fixture
def group() -> Iterator[Path]:
    base = Path("/sys/fs/cgroup/memory")
    if not (base / "memory.limit_in_bytes").exists() or os.geteuid() != 0:
        pytest.skip("no version 1 memory controller in which a group could be made here")
    directory = base / f"proxywatch-evidence-{os.getpid()}.service"
    directory.mkdir()
    (directory / "memory.limit_in_bytes").write_text(str(24 * MIB))
    with contextlib.suppress(OSError):
        (directory / "memory.memsw.limit_in_bytes").write_text(str(24 * MIB))
    yield directory
    directory.rmdir()


HOG = f"""
import sys
sys.stdin.readline()
held = bytearray(200 * {MIB})
for at in range(0, len(held), 4096):
    held[at] = 1
"""


def started(group: Path, program: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, text=True)
    (group / "cgroup.procs").write_text(str(process.pid))
    return process


def fresh(directory: Path, name: str) -> Path:
    """A place for a story of its own."""
    (directory / name).mkdir()
    return directory / name


async def test_a_worker_killed_for_want_of_memory_is_attributed(group: Path, tmp_path: Path) -> None:
    """The incident's story names the unit, its limit, and the pid of the worker that the kernel really killed; before
    that it says that nothing was killed."""
    master, hog = started(group, "input()"), started(group, HOG)
    try:
        context = replace(
            context_of(tmp_path), proxies={"web": Master(master.pid, WorkerStatus(slot=0, state="serving"))}
        )  # type: ignore[dict-item]
        (before,) = (await taken(fresh(tmp_path, "before"), context, "out_of_memory")).values()
        assert before.startswith(f"the kernel killed no process of {group.name} for want of memory")
        hog.communicate("\n", timeout=60)
        assert hog.returncode == -9
        dead = WorkerStatus(slot=0, state="backoff", last_exit="signal 9", last_pid=hog.pid)
        context = replace(context, proxies={"web": Master(master.pid, dead)})  # type: ignore[dict-item]
        (after,) = (await taken(fresh(tmp_path, "after"), context, "out_of_memory")).values()
        assert after.startswith(
            f"the kernel has killed a process of {group.name} for want of memory since its start "
            "(limit 24.0 MiB, peak 24.0 MiB"
        )
        assert f"; worker 0, pid {hog.pid}, ended by signal 9" in after
    finally:
        hog.kill()
        hog.wait()
        master.communicate("\n", timeout=60)


async def test_where_nothing_counts_it_says_so(tmp_path: Path) -> None:
    """A service without a process, or on a machine that accounts for no memory, is no reason to guess."""
    context = replace(context_of(tmp_path), proxies={})
    (found,) = (await taken(tmp_path, context, "out_of_memory")).values()
    assert found.startswith("could not be taken: ")
