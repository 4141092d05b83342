"""Asks the memory agents that live in watched processes: one typed call each, over the process's private Unix socket.

An agent is any process that serves the calls of `proxy/memory.py`: the workers of an llm-proxy do, and so does any
other service that mounts that file and whose sockets stand in `services.NAME.memory_agents`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from watchdog.errors import ActionError, ProbeError
from watchdog.system.http import HttpClient, HttpError
from watchdog.system.memory_answers import (
    AgentMemory,
    Census,
    Collection,
    Comparison,
    Resources,
    Snapshot,
    Snapshots,
    Tracing,
    Trim,
)
from watchdog.system.proxy_api import ProxyApi, ProxyEndpoint
from watchdog.system.proxy_api.answers import Answer
from watchdog.system.proxy_api.calling import parse

A = TypeVar("A", bound=Answer)

SNAPSHOT_SECONDS = 300.0
"""A snapshot is taken by a niced child, which may have little of the processor."""


class AgentRefusedError(ActionError):
    """The agent answered, and would not. `status`: 400 bad request, 404 no such call, 409 busy or not tracing, 503 not
    enough free memory."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, permanent=status in (400, 404))
        self.status = status


@dataclass(frozen=True, slots=True)
class MemoryAgent:
    """One process. Questions raise ProbeError, effects raise ActionError; both say what was asked and where."""

    http: HttpClient
    service: str
    worker: str
    """The slot of an llm-proxy's worker, else its place in `memory_agents`."""
    socket: Path
    pid: int | None = None
    """The worker's process as the master knows it; None where no master does."""
    is_worker: bool = False
    """Whether it is an llm-proxy's worker, which can be traced at a share of the connections."""

    @property
    def target(self) -> str:
        """What a repair of it would be about."""
        return f"worker:{self.service}/{self.worker}" if self.is_worker else f"service:{self.service}"

    async def memory(self, timeout: float = 5.0) -> AgentMemory:
        """Its figures now; some milliseconds of its time."""
        return await self._ask("GET", "/memory", AgentMemory, timeout)

    async def snapshots(self, timeout: float = 10.0) -> tuple[Snapshot, ...]:
        """The snapshots that it keeps, oldest first."""
        found = await self._ask("GET", "/memory/snapshots", Snapshots, timeout)
        return tuple(sorted(found.snapshots, key=lambda one: one.taken_at))

    async def collect(self, search_seconds: float = 20.0) -> Collection:
        """A full collection. Where there are many objects, two forked children, one after the other, may look for the
        garbage for that long each; else the process is stopped for it."""
        body = {"search_seconds": search_seconds}
        return await self._do("POST", "/gc", body, Collection, 2 * search_seconds + 10.0)

    async def trim(self, timeout: float = 30.0) -> Trim:
        """Has malloc give free pages back."""
        return await self._do("POST", "/memory/trim", {}, Trim, timeout)

    async def census(self, top: int = 40, timeout: float = 120.0) -> Census:
        """Counts living objects by type, in a forked child."""
        return await self._do("POST", "/memory/census", {"top": top}, Census, timeout)

    async def resources(self, top: int = 20, timeout: float = 60.0) -> Resources:
        """Descriptors, sockets, tasks and threads, by kind and by where they come from."""
        return await self._do("POST", "/memory/resources", {"top": top}, Resources, timeout)

    async def trace(
        self, *, frames: int = 1, limit_seconds: float = 900.0, share: float | None = None, timeout: float = 10.0
    ) -> Tracing:
        """Begins to trace, for `limit_seconds` at most. A worker then takes only `share` of new connections."""
        body: dict[str, Any] = {"frames": frames, "limit_seconds": limit_seconds}
        if share is not None and self.is_worker:
            body["share"] = share
        return await self._do("POST", "/memory/trace", body, Tracing, timeout)

    async def stop_tracing(self, timeout: float = 60.0) -> None:
        """Ends tracing; no error if nothing was traced."""
        status, content = await self._request("DELETE", "/memory/trace", None, timeout)
        if status != 409:
            self._require_ok(status, content, "DELETE /memory/trace")

    async def snapshot(self, timeout: float = SNAPSHOT_SECONDS) -> Snapshot:
        """Takes a snapshot in a forked, niced child."""
        return await self._do("POST", "/memory/snapshots", {}, Snapshot, timeout)

    async def compare(self, older: str, newer: str, top: int = 20, timeout: float = SNAPSHOT_SECONDS) -> Comparison:
        """What grew between two of its snapshots."""
        body = {"older": older, "newer": newer, "top": top}
        return await self._do("POST", "/memory/compare", body, Comparison, timeout)

    async def _ask(self, method: str, target: str, model: type[A], timeout: float) -> A:
        status, content = await self.http.unix.request(self.socket, method, target, timeout=timeout)
        if status != 200:
            raise ProbeError(f"{self.socket}: {method} {target} answered {status}: {content.get('error', '')}")
        return parse(model, content, f"{self.socket}: {method} {target}")

    async def _do(self, method: str, target: str, body: Mapping[str, Any], model: type[A], timeout: float) -> A:
        status, content = await self._request(method, target, body, timeout)
        self._require_ok(status, content, f"{method} {target}")
        return parse(model, content, f"{self.socket}: {method} {target}", ActionError)

    async def _request(
        self, method: str, target: str, body: Mapping[str, Any] | None, timeout: float
    ) -> tuple[int, dict[str, Any]]:
        try:
            return await self.http.unix.request(self.socket, method, target, json=body, timeout=timeout)
        except HttpError as error:
            raise ActionError(str(error)) from error

    def _require_ok(self, status: int, content: Mapping[str, Any], what: str) -> None:
        if not 200 <= status < 300:
            raise AgentRefusedError(status, f"{self.socket}: {what}: {content.get('error', f'answered {status}')}")


@dataclass(frozen=True, slots=True)
class MemoryAgents:
    """Finds the agents of services: `proxies` by service, `sockets` those of every other service that has some."""

    http: HttpClient
    proxies: Mapping[str, ProxyEndpoint]
    sockets: Mapping[str, Sequence[Path]]

    @property
    def services(self) -> tuple[str, ...]:
        """Names of the services that have agents, sorted."""
        return tuple(sorted({*self.proxies, *(name for name, found in self.sockets.items() if found)}))

    async def of(self, service: str) -> tuple[MemoryAgent, ...]:
        """Those that can be asked now: of an llm-proxy its serving workers, by slot. Raises ProbeError if the master
        does not answer, and a permanent one for a service that has none."""
        if endpoint := self.proxies.get(service):
            api = ProxyApi(endpoint, self.http)
            status = await api.status(timeout=5.0)
            return tuple(
                MemoryAgent(self.http, service, str(w.slot), w.socket or api.worker_socket(w.slot), w.pid, True)
                for w in sorted(status.workers, key=lambda one: one.slot)
                if w.state == "serving"
            )
        if sockets := self.sockets.get(service):
            return tuple(MemoryAgent(self.http, service, str(i), socket) for i, socket in enumerate(sockets))
        raise ProbeError(
            f"service {service!r} has no memory agent",
            permanent=True,
            hint="mount the agent in it and name its sockets in services.NAME.memory_agents; see docs/memory-leaks.md",
        )
