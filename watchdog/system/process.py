"""Processes by identity: are they alive, what do they use, how are they ended."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from watchdog.errors import ActionError
from watchdog.system import pidfd
from watchdog.system.kernel_files import read_small, read_whole

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_KILL_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of this boot. A number is reused sooner or later; a number with its start time is not."""

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """What /proc/PID/stat says, in seconds and bytes. It can be read while the process is stopped or hung."""

    identity: ProcessIdentity
    state: str
    parent: int
    session: int
    cpu_seconds: float
    threads: int
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Memory that is the process's own: what would be free if it ended, and what no file backs."""

    uss_bytes: int
    anon_bytes: int


def read_stat(pid: int) -> ProcessStat | None:
    """None if there is no such process."""
    try:
        line = read_small(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in parentheses and may contain anything, even parentheses.
    fields = line[line.rindex(b")") + 2 :].split()
    return ProcessStat(
        identity=ProcessIdentity(pid, int(fields[19])),
        state=fields[0].decode(),
        parent=int(fields[1]),
        session=int(fields[3]),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        threads=int(fields[17]),
        resident_bytes=int(fields[21]) * _PAGE,
    )


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of the process that has this number now; None if there is none or it is only a zombie."""
    stat = read_stat(pid)
    return stat.identity if stat is not None and stat.state not in "ZX" else None


def alive(identity: ProcessIdentity) -> bool:
    """Whether this very process still runs. A stopped one does; a zombie does not."""
    return identify(identity.pid) == identity


def read_memory(pid: int) -> ProcessMemory:
    """USS and anonymous bytes from smaps_rollup: dear (about a millisecond), and refused for other users' processes.

    Raises OSError (PermissionError, FileNotFoundError, ProcessLookupError).
    """
    private = anonymous = 0
    for line in read_whole(f"/proc/{pid}/smaps_rollup").decode().splitlines():
        match line.split():
            case [("Private_Clean:" | "Private_Dirty:" | "Private_Hugetlb:"), kilobytes, "kB"]:
                private += int(kilobytes) * 1024
            case ["Anonymous:", kilobytes, "kB"]:
                anonymous += int(kilobytes) * 1024
    return ProcessMemory(private, anonymous)


def read_anon_bytes(pid: int) -> int:
    """RssAnon from /proc/PID/status: cheap, readable by everybody. Raises OSError; ProcessLookupError for a zombie."""
    for line in read_small(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"RssAnon:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory of its own")


def count_descriptors(pid: int) -> int | None:
    """Open file descriptors; None if we may not see them or the process is gone."""
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return sum(1 for _ in entries)
    except OSError:
        return None


def started_at(identity: ProcessIdentity) -> float:
    """When the process started, in seconds since the epoch, as the machine's clock counts them now."""
    return _boot_time(round(time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME), 1)) + (
        identity.start_ticks / _TICKS
    )


@lru_cache(maxsize=4)
def _boot_time(_wall_less_boottime: float) -> int:
    """The kernel's boot time, which is dear to read and moves only when somebody steps the machine's clock."""
    for line in read_whole("/proc/stat").splitlines():
        if line.startswith(b"btime "):
            return int(line.split()[1])
    raise OSError("/proc/stat has no btime")


def boot_id() -> str:
    """Differs after each boot, so that a record on disk never matches a process of another boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def list_pids() -> Iterator[int]:
    """Every process number that is in use."""
    with os.scandir(_PROC) as entries:
        for entry in entries:
            if entry.name.isdigit():
                yield int(entry.name)


def read_argv(pid: int) -> tuple[str, ...]:
    """The command line; empty for kernel threads, zombies, the gone and what we may not read."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(os.fsdecode(part) for part in raw.rstrip(b"\0").split(b"\0")) if raw else ()


def open_verified(identity: ProcessIdentity) -> int | None:
    """A pidfd of this very process; None if it has ended. While it is open nobody else can be meant by it."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    if alive(identity):
        return descriptor
    os.close(descriptor)
    return None


async def wait_exit(identity: ProcessIdentity) -> None:
    """Returns when this very process has ended, at once if it already has."""
    descriptor = open_verified(identity)
    if descriptor is not None:
        await pidfd.wait_readable(descriptor)


async def terminate(identity: ProcessIdentity, timeout: float) -> Literal["gone", "ended", "killed"]:
    """TERM, and KILL when `timeout` seconds did not suffice. Both go to this very process or to nobody.

    `gone`: it had ended before; `ended`: it obeyed; `killed`: it had to be killed. Raises ActionError when we may not
    signal it, or when even KILL did not end it within five seconds (a process stuck in the kernel).
    """
    descriptor = open_verified(identity)
    if descriptor is None:
        return "gone"
    # A stopped process would keep TERM pending for ever.
    steps: tuple[tuple[tuple[signal.Signals, ...], float, Literal["ended", "killed"]], ...] = (
        ((signal.SIGTERM, signal.SIGCONT), timeout, "ended"),
        ((signal.SIGKILL,), _KILL_GRACE, "killed"),
    )
    try:
        for signals, patience, outcome in steps:
            for number in signals:
                _send(descriptor, number, identity)
            try:
                async with asyncio.timeout(patience):
                    await pidfd.wait_readable(os.dup(descriptor))
            except TimeoutError:
                continue
            return outcome
    finally:
        os.close(descriptor)
    state = read_stat(identity.pid)
    raise ActionError(f"process {identity.pid} survived SIGKILL; its state is {state.state if state else 'unknown'}")


def _send(descriptor: int, number: signal.Signals, identity: ProcessIdentity) -> None:
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return  # it ended by itself in this moment, which the caller's wait will see
    except PermissionError:
        raise ActionError(
            f"process {identity.pid} belongs to another user: {number.name} was refused", permanent=True
        ) from None
