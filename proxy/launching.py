"""How the master starts each kind of child, and what the child is given."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from proxy.children import Child, spawn, watch_ready
from proxy.clock import Clock
from proxy.plan import Plan


def launch_worker(
    number: int, plan: Plan, listen_fd: int, life_fd: int, clock: Clock, ready: Callable[[], None]
) -> Child:
    """Hands the worker everything by descriptors: socket, readiness and life pipes, and its whole order as JSON.

    The order holds the configuration as it was judged, so that a file that was broken since cannot harm a replacement.
    """
    incarnation = f"worker-{number}-{secrets.token_hex(4)}"
    ready_reader, ready_writer = os.pipe()
    order = os.memfd_create("llm-proxy-order", os.MFD_CLOEXEC)
    log = os.dup(2)
    try:
        spoken = {
            "slot": number,
            "incarnation": incarnation,
            "document": plan.document,
            "listen_fd": listen_fd,
            "ready_fd": ready_writer,
            "life_fd": life_fd,
            "log_fd": log,
        }
        os.write(order, json.dumps(spoken).encode())
        os.lseek(order, 0, os.SEEK_SET)
        child = spawn(
            ["worker", str(order)],
            name=f"worker-{number}",
            incarnation=incarnation,
            stderr=plan.run_dir / f"{incarnation}.stderr",
            pass_fds=(order, listen_fd, ready_writer, life_fd, log),
            now=(clock.wall(), clock.monotonic()),
        )
    finally:
        for descriptor in (ready_writer, order, log):
            os.close(descriptor)
    watch_ready(ready_reader, ready)
    return child


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
