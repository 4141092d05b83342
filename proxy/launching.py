"""How the master starts each kind of child, and what the child is given."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proxy.children import Child, open_stderr, spawn, watch_ready
from proxy.clock import Clock
from proxy.forking import Document, Zygote
from proxy.plan import Plan


@dataclass(frozen=True, slots=True)
class Nest:
    """What workers share: where to listen, and the pipe that breaks with the master's life."""

    listen_fd: int
    life_fd: int


def launch_worker(
    number: int, plan: Plan, zygote: Zygote | None, nest: Nest, clock: Clock, ready: Callable[[], None]
) -> Child:
    """Hands the worker everything by descriptors: socket, readiness and life pipes, and its whole order as JSON.

    The order holds the configuration as it was judged, so that a file that was broken since cannot harm a replacement.
    Without a zygote the worker starts in a fresh interpreter. ZygoteFailed.
    """
    name, incarnation = f"worker-{number}", f"worker-{number}-{secrets.token_hex(4)}"
    stderr = plan.run_dir / f"{incarnation}.stderr"
    order = {"slot": number, "incarnation": incarnation, "document": plan.document}
    now = (clock.wall(), clock.monotonic())
    ready_reader, ready_writer = os.pipe()
    log = os.dup(2)
    try:
        if zygote is None:
            child = _launch_fresh(order, nest, ready_writer, log, name, stderr, now)
        else:
            output = open_stderr(stderr)
            try:
                forked = zygote.launch(order, (nest.listen_fd, ready_writer, nest.life_fd, log, output))
            finally:
                os.close(output)
            child = Child(name, incarnation, forked, stderr, *now)
    except BaseException:
        os.close(ready_reader)
        raise
    finally:
        for descriptor in (ready_writer, log):
            os.close(descriptor)
    watch_ready(ready_reader, ready)
    return child


def _launch_fresh(
    order: Document, nest: Nest, ready: int, log: int, name: str, stderr: Path, now: tuple[float, float]
) -> Child:
    spoken = os.memfd_create("llm-proxy-order", os.MFD_CLOEXEC)
    descriptors = {"listen_fd": nest.listen_fd, "ready_fd": ready, "life_fd": nest.life_fd, "log_fd": log}
    try:
        os.write(spoken, json.dumps({**order, **descriptors}).encode())
        os.lseek(spoken, 0, os.SEEK_SET)
        return spawn(
            ["worker", str(spoken)],
            name=name,
            incarnation=str(order["incarnation"]),
            stderr=stderr,
            pass_fds=(spoken, *descriptors.values()),
            now=now,
        )
    finally:
        os.close(spoken)


def launch_demo(name: str, port: int, run_dir: Path, clock: Clock, ready: Callable[[], None]) -> Child:
    """A demo upstream has no readiness to tell: it counts as serving from the start, and its death is noticed."""
    child = spawn(
        ["demo-upstream", "--name", name, "--port", str(port)],
        name=f"demo-{name}",
        incarnation=f"demo-{name}",
        stderr=run_dir / f"demo-{port}.stderr",
        pass_fds=(),
        now=(clock.wall(), clock.monotonic()),
    )
    asyncio.get_running_loop().call_soon(ready)
    return child
