"""One worker process: uvicorn on the shared socket, a private control socket, and an end that breaks no request."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
import uvloop

from proxy import memory
from proxy.app import App
from proxy.clock import Clock, SystemClock
from proxy.connection import Connection
from proxy.control import Answer, Call, ControlServer, Document, not_found
from proxy.gateway import Gateway
from proxy.logs import LogWriter, bridge_logging
from proxy.metrics import Metrics
from proxy.settings import Settings

_KEEP_ALIVE_SECONDS = 75
_IDLE_GRACE_SECONDS = 3.0
"""A draining worker closes a connection only after it was idle for so long. A client that sends its next request
before that is answered, and the answer says `connection: close`; closing at once would meet it with a
reset. A client on a machine under load has been seen to take 1.5 s from one request to the next."""
_DRAIN_POLL_SECONDS = 0.05
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


def run(order_fd: int) -> int:
    """Serves until told to stop; the exit status. ConfigError if a secret cannot be read."""
    with os.fdopen(order_fd, "rb") as order_file:
        order = Order(**json.load(order_file))
    settings = Settings.model_validate(order.document)
    stacks = settings.run_dir / f"worker-{order.slot}-{os.getpid()}.stacks"
    with stacks.open("w") as stacks_file, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        faulthandler.register(signal.SIGQUIT, file=stacks_file, all_threads=True)
        runner.run(Worker(order, settings, SystemClock()).serve())
        faulthandler.unregister(signal.SIGQUIT)
    return 0


class Server(uvicorn.Server):
    """uvicorn's server with our signals, ticks and end."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: App,
        clock: Clock,
        drain_seconds: float,
        on_started: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self.loop_lag_seconds = 0.0
        self._app = app
        self._clock = clock
        self._drain_seconds = drain_seconds
        self._ordered = asyncio.Event()

    def drain(self) -> None:
        """Begins the end: no new connections, requests in hand are finished."""
        self._app.draining = True
        self._ordered.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the worker's own business."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tells that it serves only once it does."""
        await super().startup(sockets)
        self._on_started()

    async def main_loop(self) -> None:
        """Ticks once a second (date header, figures, lag of the loop) until the order to drain."""
        while not self._ordered.is_set():
            await self.on_tick(0)
            self._app.health.tick()
            began = self._clock.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._ordered.wait()
            self.loop_lag_seconds = max(0.0, self._clock.monotonic() - began - 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops accepting, finishes what is in hand, closes idle connections, and after the limit cancels the rest."""
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        began = self._clock.monotonic()
        while connections := list(self.server_state.connections):
            waited = self._clock.monotonic() - began
            if waited >= self._drain_seconds:
                for task in list(self.server_state.tasks):
                    task.cancel()
                break
            for connection in connections:
                if isinstance(connection, Connection) and connection.idle_seconds() >= _IDLE_GRACE_SECONDS:
                    connection.transport.close()
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        await asyncio.gather(*self.server_state.tasks, return_exceptions=True)


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
        self._gateway = Gateway(settings, self._metrics, clock)
        self._app = App(settings, self._gateway, self._metrics, self._log, clock)
        config = uvicorn.Config(
            self._app,
            http=Connection,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        drain = max(0.0, settings.recycle.drain_timeout - _DRAIN_MARGIN_SECONDS)
        self._server = Server(config, self._app, clock, drain, self._tell_ready)

    async def serve(self) -> None:
        """Serves until drained: by SIGTERM, by the control socket, or because the master is gone."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._server.drain)
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        loop.add_reader(self._order.life_fd, self._master_gone)
        listener = socket.socket(fileno=self._order.listen_fd)
        control = ControlServer(self._settings.run_dir / f"worker-{self._order.slot}.sock", self._route)
        await self._gateway.start()
        try:
            await control.start()
            await self._server.serve(sockets=[listener])
        finally:
            await control.close()
            await self._gateway.close()
            loop.remove_reader(self._order.life_fd)
            self._metrics.close()
            self._log.close()

    def _tell_ready(self) -> None:
        os.write(self._order.ready_fd, b"1")
        os.close(self._order.ready_fd)
        memory.settle()

    def _master_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._order.life_fd)
        self._log.write("warning", "the master is gone; draining", slot=self._order.slot)
        self._server.drain()

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
                self._server.drain()
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
            "loop_lag_ms": round(self._server.loop_lag_seconds * 1000, 3),
        }
