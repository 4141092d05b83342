"""What a master leaves in run_dir and finds there: the lock, the record of its children, the listening socket.

A master that was killed leaves workers that drain and perhaps one that hangs and still holds the port. Its successor
ends the recorded ones, each only if pid and start time are still those of the record.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from proxy.children import start_ticks
from proxy.errors import ProxyError

BIND_PATIENCE_SECONDS = 5.0
_KILL_AFTER_SECONDS = 2.0
_BACKLOG = 2048


class CannotServe(ProxyError):  # noqa: N818 - it names what is so
    """The directory or the port is not ours to use; one line for the operator. Exit 2."""


@dataclass(frozen=True, slots=True)
class Stale:
    """A child of an earlier master that still lives."""

    pid: int
    name: str


def lock(run_dir: Path) -> int:
    """Makes `run_dir` (0700) and holds its lock by the returned descriptor. CannotServe if another master holds it."""
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(run_dir / "master.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotServe(f"run_dir {run_dir} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode() or "unknown"
        os.close(descriptor)
        raise CannotServe(f"run_dir {run_dir} belongs to the llm-proxy that runs as pid {holder}") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def sweep(run_dir: Path) -> None:
    """Removes what the children of an earlier master wrote for it; nobody will read that any more."""
    for pattern in ("*.stderr", "*.stacks"):
        for file in run_dir.glob(pattern):
            file.unlink(missing_ok=True)


def record_children(run_dir: Path, children: Iterable[tuple[int, str]]) -> None:
    """Writes down who lives: (pid, name). Replaces the record by rename, so that it is never half written."""
    rows = [
        {"pid": pid, "name": name, "start_ticks": ticks}
        for pid, name in children
        if (ticks := start_ticks(pid)) is not None
    ]
    fresh = run_dir / "children.json.new"
    fresh.write_text(json.dumps(rows))
    fresh.replace(run_dir / "children.json")


def stale_children(run_dir: Path) -> list[Stale]:
    """The recorded children that still live. An unreadable record names nobody: we end only what we know."""
    try:
        rows = json.loads((run_dir / "children.json").read_bytes())
        return [Stale(row["pid"], row["name"]) for row in rows if start_ticks(row["pid"]) == row["start_ticks"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []


def end(stale: Iterable[Stale], number: signal.Signals) -> None:
    """Signals each; one that is gone by now needs nothing."""
    for child in stale:
        try:
            os.kill(child.pid, number)
        except ProcessLookupError:
            continue


def bind(host: str, port: int, run_dir: Path, say: Callable[[str], None]) -> socket.socket:
    """Binds and listens, waiting up to 5 s for an earlier master's workers to let go of the port.

    They are asked to drain at once; those that still live after 2 s of a taken port are killed, for a worker that
    hangs would hold it for ever.
    """
    stale = stale_children(run_dir)
    if stale:
        say(
            f"ending {len(stale)} processes that an earlier master left: {', '.join(str(child.pid) for child in stale)}"
        )
    end(stale, signal.SIGTERM)
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    began = time.monotonic()
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            waited = time.monotonic() - began
            if waited >= BIND_PATIENCE_SECONDS or error.errno != errno.EADDRINUSE:
                raise CannotServe(f"cannot listen on {host}:{port}: {error.strerror}") from error
            if waited >= _KILL_AFTER_SECONDS:
                end(stale_children(run_dir), signal.SIGKILL)
            time.sleep(0.05)
        else:
            return listener
