"""One worker process: the server on the shared socket, a private control socket, and an end that breaks no request."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import resource
import signal
import socket
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from proxy import memory
from proxy.app import App
from proxy.clock import Clock, SystemClock
from proxy.control import Answer, Call, ControlServer, Document, not_found
from proxy.gateway import Gateway
from proxy.limits.admission import Limits
from proxy.logs import LogWriter, bridge_logging
from proxy.metrics import Metrics
from proxy.server import Server
from proxy.settings import Settings

_TICK_SECONDS = 1.0
_SNAPSHOTS = 24
"""Of traced allocations, kept of each slot."""
_DRAIN_MARGIN_SECONDS = 1.0
"""The worker ends what has not finished so much before the master would kill it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the master hands over: the judged configuration document and the inherited descriptors."""

    slot: int
    incarnation: str
    document: Document
    listen_fd: int
    ready_fd: int
    life_fd: int
    log_fd: int


def run(order: Order) -> int:
    """Serves until told to stop; the exit status. ConfigError if a secret cannot be read."""
    settings = Settings.model_validate(order.document)
    stacks = settings.run_dir / f"worker-{order.slot}-{os.getpid()}.stacks"
    with stacks.open("w") as stacks_file, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        faulthandler.register(signal.SIGQUIT, file=stacks_file, all_threads=True)
        runner.run(Worker(order, settings, SystemClock()).serve())
        faulthandler.unregister(signal.SIGQUIT)
    return 0


class Worker:
    """Puts one worker together."""

    def __init__(self, order: Order, settings: Settings, clock: Clock) -> None:
        self._order = order
        self._settings = settings
        self._clock = clock
        self._started_at = clock.wall()
        self._metrics = Metrics(settings.run_dir / "metrics", order.incarnation)
        self._log = LogWriter(settings.log, clock, order.log_fd)
        bridge_logging(self._log, settings.log)
        self._limits = Limits(settings, self._metrics, clock)
        self._gateway = Gateway(settings, self._metrics, clock, self._limits)
        self._app = App(settings, self._gateway, self._metrics, self._log, clock, self._limits)
        self._server = Server(self._app, self._app.bounds, lambda: self._app.share.full)
        self._app.share.connections = lambda: self._server.open
        self._agent = memory.MemoryAgent(
            settings.state_dir / "memory", requests=lambda: self._app.begun, name=str(order.slot), keep=_SNAPSHOTS
        )
        self._ordered = asyncio.Event()
        self._loop_lag_seconds = 0.0

    async def serve(self) -> None:
        """Serves until drained: by SIGTERM, by the control socket, or because the master is gone."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        loop.add_signal_handler(signal.SIGUSR1, self._log.reopen)
        loop.add_reader(self._order.life_fd, self._master_gone)
        listener = socket.socket(fileno=self._order.listen_fd)
        control = ControlServer(self._settings.run_dir / f"worker-{self._order.slot}.sock", self._route)
        await self._gateway.start()
        try:
            await self._app.books.start()
            await control.start()
            await self._server.start(listener)
            self._tell_ready()
            async with asyncio.TaskGroup() as group:
                ticking = group.create_task(self._tick())
                await self._ordered.wait()
                await self._server.drain(max(0.0, self._settings.recycle.drain_timeout - _DRAIN_MARGIN_SECONDS))
                ticking.cancel()
        finally:
            await control.close()
            await self._agent.close()
            self._app.share.restore()
            await self._gateway.close()
            await self._app.books.close()
            loop.remove_reader(self._order.life_fd)
            listener.close()
            self._limits.close()
            self._metrics.close()
            self._log.close()

    async def _tick(self) -> None:
        """Once a second: the date, the figures, and how late the loop is."""
        while True:
            self._app.tick()
            began = self._clock.monotonic()
            await asyncio.sleep(_TICK_SECONDS)
            self._loop_lag_seconds = max(0.0, self._clock.monotonic() - began - _TICK_SECONDS)

    def _drain(self) -> None:
        """Begins the end: no new connections, requests in hand are finished."""
        self._app.draining = True
        self._ordered.set()

    def _tell_ready(self) -> None:
        os.write(self._order.ready_fd, b"1")
        os.close(self._order.ready_fd)
        memory.settle()

    def _master_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._order.life_fd)
        self._log.write("warning", "the master is gone; draining", slot=self._order.slot)
        self._drain()

    async def _route(self, call: Call) -> Answer:
        match call.method, *call.path:
            case "GET", "health":
                return Answer(200, self._health())
            case "POST", "memory", "trace":
                return await self._trace(call)
            case _, "memory" | "gc", *_:
                return Answer(*await self._agent.handle(call.method, call.path, call.body))
            case "GET", "stacks":
                return Answer(200, {"text": memory.stacks()})
            case "POST", "drain":
                self._drain()
                return Answer(202, {"draining": True})
            case _:
                return not_found(call)

    async def _trace(self, call: Call) -> Answer:
        """Traces allocations, which makes each request dearer; so this worker may be told to take only a `share` of the
        service's requests, as long as it is traced."""
        body = dict(call.body)
        share = body.pop("share", 1.0)
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1:
            return Answer(400, {"error": f"share: expected 0 to 1, not {share!r}"})
        status, document = await self._agent.handle(call.method, call.path, body)
        if status == 200:
            self._app.share.reduce(float(share), tracemalloc.is_tracing)
        return Answer(status, document | {"share": self._app.share.fraction})

    def _health(self) -> dict[str, Any]:
        kinds = [_target(entry) for entry in Path("/proc/self/fd").iterdir()]
        return {
            "status": "draining" if self._app.draining else "serving",
            "slot": self._order.slot,
            "pid": os.getpid(),
            "started_at": self._started_at,
            "uptime_seconds": self._app.health.uptime(),
            "in_flight": self._app.in_flight,
            "draining": self._app.draining,
            "share": self._app.share.fraction,
            "loop_lag_ms": round(self._loop_lag_seconds * 1000, 3),
            "requests": self._app.begun,
            "tasks": len(asyncio.all_tasks()),
            "threads": sum(1 for _ in Path("/proc/self/task").iterdir()),
            "descriptors": len(kinds) - 1,
            "sockets": sum(kind.startswith("socket:") for kind in kinds),
            "descriptors_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        }


def _target(descriptor: Path) -> str:
    """What an entry of /proc/self/fd stands for; nothing for the one that the listing itself had open."""
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:
        return ""
