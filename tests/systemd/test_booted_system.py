"""The lab itself: what becomes of a container when the process that booted it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from booted_system import GROUP_PREFIX, BootedSystem
from installed_lab import Lab

_BOOT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from booted_system import BootedSystem
booted = BootedSystem(Path(sys.argv[2]), bare=True)
print(booted.leader, flush=True)
time.sleep(600)
"""


def _groups(pid: int) -> list[Path]:
    return [*Path("/sys/fs/cgroup").glob(f"**/{GROUP_PREFIX}{pid}-*")]


def test_a_killed_test_process_takes_its_container_along(installed: Lab, tmp_path: Path) -> None:
    """After SIGKILL the kernel ends the container and its mounts; the groups that are left go with the next boot."""
    argv = [sys.executable, "-c", _BOOT, str(Path(__file__).parent), str(tmp_path / "killed")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        leader = int(process.stdout.readline())
        assert Path(f"/proc/{leader}/comm").read_text() == "systemd\n"
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _lives(leader) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(leader)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert _groups(process.pid)
    BootedSystem(tmp_path / "next", bare=True).close()
    assert not _groups(process.pid)


def _lives(pid: int) -> bool:
    """Not gone, and no zombie, which is for others to bury."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
