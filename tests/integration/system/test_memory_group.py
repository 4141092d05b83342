"""Memory limits and out-of-memory kills: from a real control group where one can be made, else from files."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchdog.system.memory_group import MemoryGroup, memory_group, memory_room

MIB = 1024 * 1024
HOG = f"""
import sys
sys.stdin.readline()
held = bytearray(200 * {MIB})
for at in range(0, len(held), 4096):
    held[at] = 1
"""


def test_version_2(tmp_path: Path) -> None:
    """The unit is the last one of the path; `max` is no limit."""
    group = tmp_path / "v2/system.slice/web.service/workers"
    group.mkdir(parents=True)
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text("0::/system.slice/web.service/workers\n")
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n")
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("max\n")
    found = memory_group(7, proc=tmp_path, v2=tmp_path / "v2", v1=tmp_path / "v1")
    assert found == MemoryGroup("/system.slice/web.service/workers", 1, 1000, None, None)
    assert found.unit == "web.service"


def test_hybrid_looks_where_memory_is_accounted(tmp_path: Path) -> None:
    """Where version 2 is there without the controller, version 1 is asked; its huge number is no limit."""
    group = tmp_path / "v1/web"
    group.mkdir(parents=True)
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text("4:memory:/web\n2:cpu:/\n0::/web\n")
    (group / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (group / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    found = memory_group(7, proc=tmp_path, v2=tmp_path / "v2", v1=tmp_path / "v1")
    assert found == MemoryGroup("/web", 3, None, None, None)
    assert found.unit == "/web"


def test_room_until_the_nearer_limit(tmp_path: Path) -> None:
    """What a process may still take is bounded by its group, where pages of files count as free, or by the machine."""
    group = tmp_path / "v2/web.service"
    group.mkdir(parents=True)
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text("0::/web.service\n")
    (group / "memory.events").write_text("oom_kill 0\n")
    (group / "memory.current").write_text("9000000\n")
    (group / "memory.max").write_text("10000000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 2000000\nactive_file 500000\n")

    def room() -> int | None:
        return memory_room(7, proc=tmp_path, v2=tmp_path / "v2", v1=tmp_path / "v1")

    assert room() == 3_500_000
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    1000 kB\n")
    assert room() == 1_024_000
    (group / "memory.max").write_text("max\n")
    (tmp_path / "meminfo").unlink()
    assert room() is None


def test_nothing_accounts_for_memory(tmp_path: Path) -> None:
    """That is told as None, and a process that has gone as an error."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text("0::/\n")
    assert memory_group(7, proc=tmp_path, v2=tmp_path / "v2", v1=tmp_path / "v1") is None
    with pytest.raises(OSError, match="No such file"):
        memory_group(8, proc=tmp_path)


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of the test's own, 32 MiB."""
    base = Path("/sys/fs/cgroup/memory")
    if not (base / "memory.limit_in_bytes").exists() or os.geteuid() != 0:
        pytest.skip("no version 1 memory controller in which a group could be made here")
    directory = base / f"proxywatch-test-{os.getpid()}.service"
    directory.mkdir()
    try:
        (directory / "memory.limit_in_bytes").write_text(str(32 * MIB))
        with contextlib.suppress(OSError):
            (directory / "memory.memsw.limit_in_bytes").write_text(str(32 * MIB))
        yield directory
    finally:
        directory.rmdir()


def test_what_the_kernel_really_killed_is_counted(group: Path) -> None:
    """A process that takes more than its group may is killed by the kernel, and the group of its neighbour tells it."""
    neighbour = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True)
    hog = subprocess.Popen([sys.executable, "-c", HOG], stdin=subprocess.PIPE, text=True)
    try:
        for process in (neighbour, hog):
            (group / "cgroup.procs").write_text(str(process.pid))
        before = memory_group(neighbour.pid)
        assert before is not None
        assert (before.unit, before.oom_kills, before.limit) == (group.name, 0, 32 * MIB)
        assert hog.stdin is not None
        hog.stdin.write("\n")
        hog.stdin.close()
        assert hog.wait(timeout=60) == -9
        after = memory_group(neighbour.pid)
        assert after is not None
        assert after.oom_kills == 1
    finally:
        hog.kill()
        hog.wait()
        neighbour.communicate("\n")
