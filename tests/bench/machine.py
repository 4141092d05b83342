"""What the kernel says of processes and of this machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from tests.bench.figures import BenchError
from watchdog.clock import SystemClock
from watchdog.system.process import list_pids, read_memory, read_stat

MIB = 2**20
_CPUCLOCK_SCHED = 2
_BITS_OF_KIND = 3

PEERS = {
    "nginx": ("/usr/sbin/nginx", "nginx-light"),
    "monit": ("/usr/bin/monit", "monit"),
    "wrk": ("/usr/bin/wrk", "wrk"),
}


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU used by these processes so far, ended threads included, to the nanosecond. BenchError if one has ended.

    The clock's id follows from the process id as in `clock_getcpuclockid(3)`; utime and stime in /proc are the same
    sum cut to hundredths of a second, too coarse for a daemon that uses a few milliseconds a minute.
    """
    try:
        return sum(time.clock_gettime((~pid << _BITS_OF_KIND) | _CPUCLOCK_SCHED) for pid in pids)
    except OSError as error:
        raise BenchError(f"a measured process has ended: {error}") from error


def uss_mib(pid: int) -> float:
    """What would be free if it ended."""
    return read_memory(pid).uss_bytes / MIB


def pss_mib(pids: Iterable[int]) -> float:
    """Of processes that share pages with one another and nobody else: what would be free if all of them ended."""
    rows = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(row.split()[1]) for row in rows if row.startswith("Pss:")) / 1024


def rss_mib(pid: int) -> float:
    """Resident, shared pages included."""
    stat = read_stat(pid)
    if stat is None:
        raise BenchError(f"process {pid} has ended")
    return stat.resident_bytes / MIB


def children(pid: int) -> list[int]:
    """Living direct children."""
    found = []
    for each in list_pids():
        stat = read_stat(each)
        if stat is not None and stat.parent == pid and stat.state not in "ZX":
            found.append(each)
    return found


def family(pid: int) -> list[int]:
    """A process and all living ones that it has started, by way of others too."""
    return [pid, *(each for child in children(pid) for each in family(child))]


def living_below(directory: Path) -> list[int]:
    """Processes that work in or below this directory."""
    found = []
    for pid in list_pids():
        try:
            where = Path(f"/proc/{pid}/cwd").readlink()
        except OSError:
            continue  # another user's, or it has just ended
        stat = read_stat(pid)
        if where.is_relative_to(directory) and stat is not None and stat.state not in "ZX" and pid != os.getpid():
            found.append(pid)
    return found


def peer(name: str) -> str | None:
    """Where a peer program is, or None."""
    usual, _ = PEERS[name]
    return shutil.which(name) or (usual if Path(usual).is_file() else None)


def describe() -> dict[str, str]:
    """Processor, cores, load, kernel and versions, for whoever compares two runs."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    known = {
        "date": time.strftime("%Y-%m-%d", time.gmtime(SystemClock().wall())),
        "processor": f"{os.cpu_count()} x {models[0].partition(':')[2].strip() if models else platform.machine()}",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }
    for name, option in (("nginx", "-v"), ("monit", "-V"), ("wrk", "-v")):
        if path := peer(name):
            said = subprocess.run([path, option], capture_output=True, text=True, check=False)
            known[name] = (said.stdout + said.stderr).strip().splitlines()[0].removeprefix("nginx version: ")
    return known
