"""The master and its workers, over their private sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Literal

from watchdog.errors import ActionError
from watchdog.system.proxy_api.answers import (
    AlreadyReplaced,
    GarbageCollected,
    MasterStatus,
    RecycleAge,
    Recycled,
    WorkerEvent,
    WorkerHealth,
    WorkerMemory,
)
from watchdog.system.proxy_api.calling import Caller, loads, parse


class WorkerCalls(Caller):
    """What the master and the workers are asked."""

    async def status(self, timeout: float = 2.0) -> MasterStatus:
        """The master's view of itself and its workers."""
        return await self._ask(self.endpoint.master_socket, "GET", "/status", MasterStatus, timeout)

    async def events(self) -> AsyncGenerator[MasterStatus | WorkerEvent]:
        """The present status, then each change as it happens. Ends only by ProbeError: the caller reconnects."""
        socket = self.endpoint.master_socket
        async with aclosing(self._http.unix.stream_lines(socket, "/events")) as lines:
            async for line in lines:
                if line.strip():
                    content = loads(line, f"{socket}: GET /events")
                    model: type[MasterStatus | WorkerEvent] = WorkerEvent if "event" in content else MasterStatus
                    yield parse(model, content, f"{socket}: GET /events")

    async def recycle_worker(
        self,
        slot: int,
        mode: Literal["graceful", "kill"],
        expect_pid: int,
        timeout: float,
        reason: Literal["command", "leak"] = "command",
    ) -> Recycled | AlreadyReplaced:
        """Replaces one worker and waits until the new one serves. Repeated calls never hit the replacement. The proxy
        counts recycles by `reason`."""
        target = f"/workers/{slot}/recycle"
        body = {"mode": mode, "expect_pid": expect_pid, "reason": reason}
        status, content = await self._act(target, body, timeout)
        if status == 409:
            return AlreadyReplaced(str(content.get("error", "the worker has another pid")))
        self._require_ok(status, content, f"POST {target}")
        return Recycled(content.get("old_pid"), content.get("new_pid"))

    async def recycle_all(self, timeout: float) -> None:
        """Replaces all workers, one at a time; returns when the last new one serves."""
        status, content = await self._act("/recycle", None, timeout)
        self._require_ok(status, content, "POST /recycle")

    async def recycle_age(self, seconds: float, for_seconds: float, reason: str, timeout: float = 5.0) -> RecycleAge:
        """Has workers replaced when they have served for `seconds`, for so long; 0 ends what was ordered."""
        what = {"seconds": seconds, "for_seconds": for_seconds, "reason": reason}
        status, content = await self._act("/recycle-age", what, timeout)
        self._require_ok(status, content, "POST /recycle-age")
        return parse(RecycleAge, content, "POST /recycle-age", ActionError)

    async def worker_stacks(self, slot: int, timeout: float = 3.0) -> str:
        """Stacks of all threads, dumped by the worker's signal handler: works while its event loop is blocked."""
        target = f"/workers/{slot}/stacks"
        status, content = await self._act(target, None, timeout)
        self._require_ok(status, content, f"POST {target}")
        return str(content.get("text", ""))

    def worker_socket(self, slot: int) -> Path:
        """Where the worker of this slot answers."""
        return self.endpoint.master_socket.with_name(f"worker-{slot}.sock")

    async def worker_health(self, slot: int, timeout: float = 0.8) -> WorkerHealth:
        """Whether the worker's event loop turns: a worker that does not answer in time raises ProbeError."""
        clock = asyncio.get_running_loop().time
        started = clock()
        health = await self._ask(self.worker_socket(slot), "GET", "/health", WorkerHealth, timeout)
        return health.model_copy(update={"response_seconds": clock() - started})

    async def worker_memory(self, slot: int, timeout: float = 2.0) -> WorkerMemory:
        """The worker's own figures; dearer than /proc, but readable whatever user it runs as."""
        return await self._ask(self.worker_socket(slot), "GET", "/memory", WorkerMemory, timeout)

    async def collect_garbage(self, slot: int, timeout: float = 50.0) -> GarbageCollected:
        """A full collection in one worker; its children may look for garbage for twenty seconds, twice."""
        socket = self.worker_socket(slot)
        status, content = await self._act("/gc", None, timeout, socket)
        self._require_ok(status, content, f"{socket}: POST /gc")
        return parse(GarbageCollected, content, f"{socket}: POST /gc", ActionError)
