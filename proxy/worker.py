"""One worker process: the server on the shared socket, a private control socket, and an end that breaks no request."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
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
        self._server = Server(self._app, self._app.bounds)
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
            case "GET", "memory":
                return Answer(200, memory.census())
            case "POST", "gc":
                return Answer(200, memory.collect(self._clock))
            case "GET", "stacks":
                return Answer(200, {"text": memory.stacks()})
            case "POST", "drain":
                self._drain()
                return Answer(202, {"draining": True})
            case _:
                return not_found(call)

    def _health(self) -> dict[str, Any]:
        return {
            "status": "draining" if self._app.draining else "serving",
            "slot": self._order.slot,
            "pid": os.getpid(),
            "started_at": self._started_at,
            "uptime_seconds": self._app.health.uptime(),
            "in_flight": self._app.in_flight,
            "draining": self._app.draining,
            "loop_lag_ms": round(self._loop_lag_seconds * 1000, 3),
            "tasks": len(asyncio.all_tasks()),
            "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1,
        }
