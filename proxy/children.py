"""One child process of the master: how it is started, how its death is learnt, what it said last.

A child runs in a session of its own, so that Ctrl-C on the terminal reaches only the master. Its standard error is a
file in run_dir, because a pipe would break with the master while the child still drains. Death comes by pidfd.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from proxy.clock import Clock

_TAIL_BYTES = 4096
_STACKS_DEADLINE_SECONDS = 1.0


class Process(Protocol):
    """A child process as `subprocess.Popen` and `forking.Forked` know it."""

    pid: int

    @property
    def returncode(self) -> int | None: ...
    def send_signal(self, number: int, /) -> None: ...
    def wait(self) -> int: ...


@dataclass(slots=True)
class Child:
    """A child that was started. Times: wall seconds for people, monotonic ones for durations."""

    name: str
    incarnation: str
    process: Process
    stderr: Path
    started_at: float
    started: float
    serving_at: float | None = None
    serving: float | None = None
    excused: bool = False
    """Its end was ordered, so that it is no crash."""
    dead: asyncio.Event = field(default_factory=asyncio.Event)
    limits: list[asyncio.TimerHandle] = field(default_factory=list)
    """What will be done to it if it lives too long; called off by its death."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Signals it; a child that is dead already is no error, for its death is on its way to us."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def limit(self, seconds: float, then: Callable[[], object]) -> None:
        """Does `then` in so many seconds, unless it is dead by then."""
        self.limits.append(asyncio.get_running_loop().call_later(seconds, then))

    def bury(self) -> None:
        """Reaps it, calls its limits off, and wakes whoever waits for its end."""
        self.process.wait()
        for limit in self.limits:
            limit.cancel()
        self.dead.set()

    def last_words(self) -> str:
        """The end of what it wrote to standard error, at most 4 KiB."""
        try:
            with self.stderr.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                return file.read().decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return ""

    def exit_text(self) -> str:
        """`signal 9`, `exit 0`, or `exit 1: its last line on standard error`; for a child that has been reaped."""
        code = self.process.returncode
        assert code is not None
        if code < 0:
            return f"signal {-code}"
        words = self.last_words().splitlines()
        return f"exit {code}: {words[-1]}" if code and words else f"exit {code}"


def spawn(
    arguments: Sequence[str],
    *,
    name: str,
    incarnation: str,
    stderr: Path,
    pass_fds: Sequence[int],
    now: tuple[float, float],
) -> Child:
    """Starts `python -m proxy <arguments>` in a fresh interpreter. `now` is (wall, monotonic)."""
    output = open_stderr(stderr)
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "proxy", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    finally:
        os.close(output)
    return Child(name, incarnation, process, stderr, *now)


def open_stderr(file: Path) -> int:
    """The descriptor that a child has for its standard error."""
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)


def watch_death(pid: int, on_death: Callable[[], None]) -> None:
    """Calls `on_death` once, in the running loop, when the process `pid` has died; ProcessLookupError if it has."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)

    def died() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        on_death()

    loop.add_reader(descriptor, died)


def watch_ready(descriptor: int, on_ready: Callable[[], None]) -> None:
    """Calls `on_ready` once if a byte comes through the pipe; its end without one means that the child gave up."""
    loop = asyncio.get_running_loop()

    def readable() -> None:
        loop.remove_reader(descriptor)
        came = os.read(descriptor, 1)
        os.close(descriptor)
        if came:
            on_ready()

    loop.add_reader(descriptor, readable)


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot (proc(5), stat field 22); None if there is no such process.

    Together with the pid it names a process for ever, which the pid alone does not.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[19])


async def dump_stacks(child: Child, file: Path, clock: Clock) -> str | None:
    """What the child's faulthandler adds to `file` on SIGQUIT; None if nothing came within a second.

    The handler runs in the interrupted thread itself, so it needs no event loop, but a stopped process runs nothing.
    """
    before = size = _size(file)
    child.send(signal.SIGQUIT)
    deadline = clock.monotonic() + _STACKS_DEADLINE_SECONDS
    while clock.monotonic() < deadline:
        await asyncio.sleep(0.01)
        last, size = size, _size(file)
        if size > before and size == last:
            return _text_from(file, before)
    return None


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _text_from(file: Path, begin: int) -> str:
    with file.open("rb") as opened:
        opened.seek(begin)
        return opened.read().decode("utf-8", "replace")


def process_state(pid: int) -> str:
    """The kernel's word for the state of a process, as in `T (stopped)`; `gone` if there is none (proc(5), status)."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("State:"):
                return line.removeprefix("State:").strip()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    return "unknown"
