"""Everything that the watchdog asks of an llm-proxy: the master's socket, the workers' sockets, the public port."""

from __future__ import annotations

import asyncio
import json as json_codec
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from watchdog.errors import ActionError, ProbeError
from watchdog.system.http import HttpClient, HttpError, HttpResponse


@dataclass(frozen=True)
class ProxyEndpoint:
    """Where one llm-proxy answers. `url` is its public base, `admin_key_file` is read anew for each admin call."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    url: str
    master_socket: Path
    admin_key_file: Path | None = None


class _Answer(BaseModel):
    """A part of an answer; what a newer proxy adds is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class WorkerStatus(_Answer):
    """One slot, as the master sees it. Times are the proxy's epoch seconds."""

    slot: int
    pid: int | None = None
    state: Literal["starting", "serving", "draining", "backoff"]
    started_at: float | None = None
    serving_since: float | None = None
    socket: Path | None = None
    starts: int = 0
    crashes: int = 0
    consecutive_crashes: int = 0
    next_start_at: float | None = None
    last_exit: str | None = None


class MasterStatus(_Answer):
    """The master and its slots."""

    pid: int
    version: str = ""
    started_at: float
    state: Literal["serving", "starting", "stopping"]
    workers: tuple[WorkerStatus, ...] = ()
    config_last_reload_successful: bool = True


class WorkerEvent(_Answer):
    """One change of one worker."""

    event: Literal["starting", "serving", "draining", "exited", "backoff"]
    slot: int
    pid: int | None = None
    at: float


class WorkerHealth(_Answer):
    """A worker's own answer on its private socket; `response_seconds` is how long it took."""

    status: str
    slot: int
    pid: int
    in_flight: int = 0
    draining: bool = False
    loop_lag_ms: float = 0.0
    uptime_seconds: float = 0.0
    response_seconds: float = 0.0


class WorkerMemory(_Answer):
    """A worker's own account of its memory."""

    rss_bytes: int
    uss_bytes: int
    anon_bytes: int
    objects: int = 0


class GarbageCollected(_Answer):
    """What a full collection in a worker did."""

    collected: int
    before_bytes: int
    after_bytes: int
    pause_ms: float


class ProviderKey(_Answer):
    """State of one key of a provider, never the key."""

    id: str
    state: Literal["active", "cooldown", "dead", "retiring", "retired"]


class ProviderHealth(_Answer):
    """One provider, as the proxy's traffic has found it. `fault` is None after a success."""

    status: Literal["healthy", "degraded", "unhealthy"]
    latency_ms: float | None = None
    error_rate: float = 0.0
    rate_limit_remaining: int | None = None
    circuit: Literal["closed", "open", "half_open"] = "closed"
    forced: bool = False
    fault: str | None = None
    last_error: str | None = None
    last_error_at: float | None = None
    last_success_at: float | None = None
    retry_at: float | None = None
    requests: int = 0
    errors: int = 0
    keys: tuple[ProviderKey, ...] = ()


class CacheHealth(_Answer):
    """The response cache; sizes in MB of 2^20 bytes, `hit_rate` 0 to 1 or None."""

    status: Literal["healthy", "warning", "critical", "disabled"]
    memory_usage_mb: float = 0.0
    max_memory_mb: float = 0.0
    hit_rate: float | None = None
    entries: int = 0
    max_entries: int = 0
    evictions: int = 0
    flushes: int = 0
    expired: int = 0

    @property
    def usage_ratio(self) -> float:
        """The larger of the shares of size and of entries that are in use."""
        size = self.memory_usage_mb / self.max_memory_mb if self.max_memory_mb else 0.0
        count = self.entries / self.max_entries if self.max_entries else 0.0
        return max(size, count)


@dataclass(frozen=True, slots=True)
class Recycled:
    """A worker was replaced: the new one serves."""

    old_pid: int | None
    new_pid: int | None


@dataclass(frozen=True, slots=True)
class AlreadyReplaced:
    """The slot's process was not the expected one any more, so nothing was done."""

    reason: str


A = TypeVar("A", bound=_Answer)


class ProxyApi:
    """Typed calls. Questions raise ProbeError, effects raise ActionError; both say what was asked and where."""

    def __init__(self, endpoint: ProxyEndpoint, http: HttpClient) -> None:
        self.endpoint = endpoint
        self._http = http

    # --- the master -------------------------------------------------------------------------------------------------

    async def status(self, timeout: float = 2.0) -> MasterStatus:
        """The master's view of itself and its workers."""
        return await self._ask(self.endpoint.master_socket, "GET", "/status", MasterStatus, timeout)

    async def events(self) -> AsyncGenerator[MasterStatus | WorkerEvent]:
        """The present status, then each change as it happens. Ends only by ProbeError: the caller reconnects."""
        socket = self.endpoint.master_socket
        async with aclosing(self._http.unix.stream_lines(socket, "/events")) as lines:
            async for line in lines:
                if line.strip():
                    content = _loads(line, f"{socket}: GET /events")
                    model: type[MasterStatus | WorkerEvent] = WorkerEvent if "event" in content else MasterStatus
                    yield _parse(model, content, f"{socket}: GET /events")

    async def recycle_worker(
        self, slot: int, mode: Literal["graceful", "kill"], expect_pid: int, timeout: float
    ) -> Recycled | AlreadyReplaced:
        """Replaces one worker and waits until the new one serves. Repeated calls never hit the replacement."""
        target = f"/workers/{slot}/recycle"
        status, content = await self._act(target, {"mode": mode, "expect_pid": expect_pid}, timeout)
        if status == 409:
            return AlreadyReplaced(str(content.get("error", "the worker has another pid")))
        self._require_ok(status, content, f"POST {target}")
        return Recycled(content.get("old_pid"), content.get("new_pid"))

    async def recycle_all(self, timeout: float) -> None:
        """Replaces all workers, one at a time; returns when the last new one serves."""
        status, content = await self._act("/recycle", None, timeout)
        self._require_ok(status, content, "POST /recycle")

    async def worker_stacks(self, slot: int, timeout: float = 3.0) -> str:
        """Stacks of all threads, dumped by the worker's signal handler: works while its event loop is blocked."""
        target = f"/workers/{slot}/stacks"
        status, content = await self._act(target, None, timeout)
        self._require_ok(status, content, f"POST {target}")
        return str(content.get("text", ""))

    # --- a worker's private socket ----------------------------------------------------------------------------------

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

    async def collect_garbage(self, slot: int, timeout: float = 10.0) -> GarbageCollected:
        """A full collection in one worker."""
        socket = self.worker_socket(slot)
        status, content = await self._act("/gc", None, timeout, socket)
        self._require_ok(status, content, f"{socket}: POST /gc")
        return _parse(GarbageCollected, content, f"{socket}: POST /gc", ActionError)

    # --- the public port --------------------------------------------------------------------------------------------

    async def providers(self, timeout: float = 5.0) -> dict[str, ProviderHealth]:
        """Health by provider name."""
        url = f"{self._base}/health/providers"
        content = _object(await self._http.get(url, timeout=timeout), url)
        return {name: _parse(ProviderHealth, health, f"{url}: {name}") for name, health in content.items()}

    async def cache(self, timeout: float = 5.0) -> CacheHealth:
        """The response cache."""
        url = f"{self._base}/health/cache"
        return _parse(CacheHealth, _object(await self._http.get(url, timeout=timeout), url), url)

    async def ready(self, timeout: float = 5.0) -> tuple[bool, str]:
        """Whether the proxy would take traffic, and what it says about it."""
        response = await self._http.get(f"{self._base}/health/ready", timeout=timeout)
        return response.status_code == 200, f"/health/ready answered {response.status_code}"

    async def metrics_text(self, timeout: float = 5.0) -> str:
        """All of the proxy's metrics in Prometheus' text format."""
        url = f"{self._base}/metrics"
        response = await self._http.get(url, headers={"accept": "text/plain;version=0.0.4"}, timeout=timeout)
        if response.status_code != 200:
            raise ProbeError(f"GET {url} answered {response.status_code}")
        return response.text

    async def evict_cache(
        self, *, expired: bool = False, fraction: float | None = None, timeout: float = 10.0
    ) -> dict[str, Any]:
        """Evicts what has expired, or the least recently used `fraction` (0 to 1). What the proxy says it did."""
        body: dict[str, object] = {"expired": True} if expired else {"fraction": fraction}
        return await self._administer("POST", "/api/cache/evict", body, timeout)

    async def flush_cache(self, timeout: float = 10.0) -> dict[str, Any]:
        """Empties the cache for all workers. What the proxy says it did."""
        return await self._administer("DELETE", "/api/cache", None, timeout)

    async def set_circuit(
        self, provider: str, state: Literal["open", "closed"], seconds: float, reason: str, timeout: float = 5.0
    ) -> dict[str, Any]:
        """Forces a provider's circuit for so many seconds."""
        body: dict[str, object] = {"state": state, "seconds": seconds, "reason": reason}
        return await self._administer("POST", f"/api/providers/{quote(provider, safe='')}/circuit", body, timeout)

    async def set_provider_key(
        self, provider: str, key: str, state: Literal["active", "retired"], grace_seconds: float, timeout: float = 5.0
    ) -> dict[str, Any]:
        """Retires one key of a provider after a grace, or takes it back."""
        path = f"/api/providers/{quote(provider, safe='')}/keys/{quote(key, safe='')}"
        return await self._administer("POST", path, {"state": state, "grace_seconds": grace_seconds}, timeout)

    # --- how --------------------------------------------------------------------------------------------------------

    @property
    def _base(self) -> str:
        return self.endpoint.url.rstrip("/")

    async def _ask(self, socket: Path, method: str, target: str, model: type[A], timeout: float) -> A:
        status, content = await self._http.unix.request(socket, method, target, timeout=timeout)
        if status != 200:
            raise ProbeError(f"{socket}: {method} {target} answered {status}: {content.get('error', '')}")
        return _parse(model, content, f"{socket}: {method} {target}")

    async def _act(
        self, target: str, body: Mapping[str, object] | None, timeout: float, socket: Path | None = None
    ) -> tuple[int, dict[str, Any]]:
        try:
            return await self._http.unix.request(
                socket or self.endpoint.master_socket, "POST", target, json=body, timeout=timeout
            )
        except HttpError as error:
            raise ActionError(str(error)) from error

    def _require_ok(self, status: int, content: Mapping[str, Any], what: str) -> None:
        if not 200 <= status < 300:
            raise ActionError(f"{what} answered {status}: {content.get('error', '')}", permanent=status in (400, 404))

    async def _administer(
        self, method: str, path: str, body: Mapping[str, object] | None, timeout: float
    ) -> dict[str, Any]:
        url = self._base + path
        headers = {"authorization": f"Bearer {await asyncio.to_thread(self._admin_key)}"}
        try:
            response = await self._http.request(method, url, headers=headers, json=body, timeout=timeout)
            if 200 <= response.status_code < 300:
                return _object(response, url)
        except ProbeError as error:
            raise ActionError(str(error)) from error
        refused = 400 <= response.status_code < 500 and response.status_code != 429
        raise ActionError(f"{method} {url} answered {response.status_code}: {response.text[:200]}", permanent=refused)

    def _admin_key(self) -> str:
        file = self.endpoint.admin_key_file
        if file is None:
            raise ActionError(f"{self.endpoint.url}: no admin_key_file is configured for this proxy", permanent=True)
        try:
            key = file.read_text().strip()
        except OSError as error:
            raise ActionError(f"{file}: the admin key cannot be read: {error.strerror}") from None
        if not key:
            raise ActionError(f"{file}: the admin key file is empty")
        return key


def _object(response: HttpResponse, what: str) -> dict[str, Any]:
    if not 200 <= response.status_code < 300:
        raise ProbeError(f"{what} answered {response.status_code}")
    content = response.json()
    if not isinstance(content, dict):
        raise ProbeError(f"{what}: the answer is not a JSON object")
    return content


def _loads(line: str, what: str) -> dict[str, Any]:
    try:
        content = json_codec.loads(line)
    except ValueError as error:
        raise ProbeError(f"{what}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ProbeError(f"{what}: not a JSON object")
    return content


def _parse(model: type[A], content: Any, what: str, error_type: type[ProbeError | ActionError] = ProbeError) -> A:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise error_type(f"{what}: unexpected answer: {place}: {first['msg']}") from None
