"""A running llm-proxy, as the tests of this directory hold it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field

from watchdog.system.proxy_api import MasterStatus, ProxyApi


@dataclass
class LiveProxy:
    """A master that we may stop and kill, and how it is asked."""

    master: subprocess.Popen[str]
    api: ProxyApi
    pids: set[int] = field(default_factory=set)

    async def status(self) -> MasterStatus:
        found = await self.api.status(timeout=10)
        self.pids |= {worker.pid for worker in found.workers if worker.pid}
        return found

    async def pid(self, slot: int) -> int:
        found = next(worker.pid for worker in (await self.status()).workers if worker.slot == slot)
        assert found is not None
        return found
