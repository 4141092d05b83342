"""Evidence of memory: what processes say of their own, and whether the kernel killed one for want of it."""

from __future__ import annotations

import asyncio
import contextlib
import re

from watchdog.actions import ActionContext
from watchdog.errors import ActionError, ProbeError
from watchdog.system.command import run_command
from watchdog.system.memory_agent import MemoryAgent
from watchdog.system.memory_answers import AgentMemory
from watchdog.system.memory_group import MemoryGroup, memory_group
from watchdog.system.process import read_stat
from watchdog.system.proxy_api import MasterStatus
from watchdog.units import format_bytes

KERNEL_SECONDS = 2.0
_BURIAL_SECONDS, _BURIAL_LOOKS = 1.0, 20
"""A master that is starved of the processor is a little later to hear of a death than we are."""
KERNEL_SINCE = "-10min"
_KILLED = "[Oo]ut of memory: Killed process"
_SIGKILL = re.compile(r"\bsignal 9\b")


async def out_of_memory(context: ActionContext) -> str:
    """Kills for want of memory in the service's control group since that was made, which for a unit is its last start;
    the workers that ended by such a signal, with their pids; and what the kernel's own log says where it may be read.
    Whether a worker's death was one of these the probe `workers` finds out, and the alert WorkerOutOfMemory says."""
    master, kernel = await asyncio.gather(_master(context), _kernel())
    pid = master.pid if master is not None else await _service_pid(context)
    group = None if pid is None else await asyncio.to_thread(memory_group, pid)
    killed = [
        f"worker {worker.slot}, pid {worker.last_pid}, ended by {worker.last_exit}"
        for worker in (master.workers if master is not None else ())
        if worker.last_exit and _SIGKILL.search(worker.last_exit)
    ]
    if group is None or not group.oom_kills:
        return "\n".join([_none(group), *kernel])
    return "\n".join(["; ".join([_told(group), *killed]), *kernel])


async def process_memory(context: ActionContext) -> str:
    """What the processes of the target say of themselves: memory, garbage collector, descriptors, tasks and threads."""
    return "\n".join([_figures(agent, await agent.memory(timeout=2.0)) for agent in await context.memory_agents()])


def _figures(agent: MemoryAgent, memory: AgentMemory) -> str:
    heap = memory.heap
    parts = [
        f"{agent.service}/{agent.worker}, pid {memory.pid}: anonymous {format_bytes(memory.anon_bytes)}",
        f"resident {format_bytes(memory.rss_bytes)}",
        f"heap {format_bytes(heap.used_bytes)} used and {format_bytes(heap.free_bytes)} free" if heap else "",
        f"{memory.objects:,} objects",
        f"{memory.descriptors:,} descriptors of {memory.descriptors_limit or '?'}, {memory.sockets:,} sockets",
        f"{memory.tasks:,} tasks, {memory.threads:,} threads",
        f"{memory.requests:,} requests" if memory.requests is not None else "",
        f"full collections {memory.gc[-1].collections:,}" if memory.gc else "",
    ]
    return ", ".join(part for part in parts if part)


async def _master(context: ActionContext) -> MasterStatus | None:
    """Once it knows of the death that we may have seen before it; as it is if that does not come soon."""
    status = None
    with contextlib.suppress(ActionError, ProbeError):
        for _ in range(_BURIAL_LOOKS):
            status = await context.proxy.status()
            if all(worker.pid is None or _alive(worker.pid) for worker in status.workers):
                break
            await asyncio.sleep(_BURIAL_SECONDS / _BURIAL_LOOKS)
    return status


def _alive(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.state not in "ZX"


async def _service_pid(context: ActionContext) -> int | None:
    identity = (await context.service.status()).identity
    return identity.pid if identity is not None else None


def _told(group: MemoryGroup) -> str:
    count = "a process" if group.oom_kills == 1 else f"{group.oom_kills} processes"
    figures = [
        f"{name} {format_bytes(value)}"
        for name, value in (("limit", group.limit), ("peak", group.peak), ("now", group.used))
        if value is not None
    ]
    said = ", ".join(figures) or "no limit of its own"
    return f"the kernel has killed {count} of {group.unit} for want of memory since its start ({said})"


def _none(group: MemoryGroup | None) -> str:
    if group is None:
        return "nothing accounts for the memory of this service, so a kill for want of it would not be seen here"
    return f"the kernel killed no process of {group.unit} for want of memory"


async def _kernel() -> list[str]:
    """What the kernel wrote lately of processes that it killed so; nothing where its log may not be read."""
    wanted = ("--dmesg", "--quiet", "--no-pager", "--no-hostname", f"--since={KERNEL_SINCE}", f"--grep={_KILLED}")
    try:
        result = await run_command(("journalctl", "--output=short-iso", *wanted), timeout=KERNEL_SECONDS)
    except ActionError:
        return []
    return result.output.strip().splitlines()[-10:] if result.status == 0 else []
