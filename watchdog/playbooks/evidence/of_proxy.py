"""Evidence of our proxy: its workers, its providers, its cache, as master and workers tell them."""

from __future__ import annotations

import asyncio
import json

from watchdog.actions import ActionContext
from watchdog.system.process_evidence import read_evidence

_TELLING = frozenset(
    {"PPid", "TracerPid", "Uid", "VmHWM", "VmRSS", "RssAnon", "VmSwap", "Threads", "CoreDumping", "SigQ", "SigPnd"}
    | {"voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"}
)
"""Of the sixty lines of /proc/PID/status."""


async def worker_process(context: ActionContext) -> str:
    """What /proc says of the worker: state, where the kernel has it waiting, stack where readable, descriptors."""
    status = await context.proxy.status()
    slot = int(context.label("worker"))
    worker = next((w for w in status.workers if w.slot == slot), None)
    if worker is None:
        return f"the master knows no worker {slot}"
    said = f"the master says: {worker.state}, starts {worker.starts}, crashes {worker.crashes}"
    said += f", last exit: {worker.last_exit}" if worker.last_exit else ""
    if worker.pid is None:
        return said
    found = await asyncio.to_thread(read_evidence, worker.pid)
    parts = [_part(name, text) for name, text in found.parts.items() if text]
    if found.unreadable:
        parts.append("could not be read: " + ", ".join(found.unreadable))
    return "\n".join([f"pid {worker.pid}; {said}", *parts])


def _part(name: str, text: str) -> str:
    if name == "status":
        text = "\n".join(line for line in text.splitlines() if line.partition(":")[0] in _TELLING)
    return f"{name}: {text}" if "\n" not in text else f"{name}:\n{text}"


async def worker_stacks(context: ActionContext) -> str:
    """The Python stacks of all its threads, dumped by a signal handler: works while the event loop is blocked."""
    return await context.proxy.worker_stacks(int(context.label("worker")))


async def workers(context: ActionContext) -> str:
    """The master's view of all workers."""
    status = await context.proxy.status()
    return "\n".join(
        f"worker {w.slot}: {w.state}, pid {w.pid}, starts {w.starts}, crashes {w.crashes}, last exit {w.last_exit}"
        for w in status.workers
    )


async def providers(context: ActionContext) -> str:
    """The proxy's view of its providers."""
    known = await context.proxy.providers()
    return "\n".join(
        f"{name}: {p.status}, circuit {p.circuit}, fault {p.fault or 'none'}, error rate {p.error_rate:.0%}"
        + (f", last error: {p.last_error}" if p.last_error else "")
        for name, p in known.items()
    )


async def cache(context: ActionContext) -> str:
    """The proxy's view of its cache."""
    return json.dumps((await context.proxy.cache()).model_dump(mode="json"))
