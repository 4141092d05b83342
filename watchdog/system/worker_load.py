"""Which worker of an llm-proxy is busiest, by the processor time that the kernel counts for it."""

from __future__ import annotations

import asyncio

from watchdog.system import process
from watchdog.system.proxy_api import ProxyApi


async def busiest_slot(proxy: ProxyApi, seconds: float = 0.5) -> int | None:
    """The slot whose process takes most processor time in these seconds; None if no worker lives that long. ProbeError
    if the master does not answer."""
    pids = {worker.slot: worker.pid for worker in (await proxy.status()).workers if worker.pid is not None}
    before = {slot: process.read_stat(pid) for slot, pid in pids.items()}
    await asyncio.sleep(seconds)
    took = {}
    for slot, pid in pids.items():
        first, last = before[slot], process.read_stat(pid)
        if first is not None and last is not None and first.identity == last.identity:
            took[slot] = last.cpu_seconds - first.cpu_seconds
    return max(took, key=took.__getitem__, default=None)
