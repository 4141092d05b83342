"""What an llm-proxy answers, as far as the watchdog reads it. What a newer proxy adds is ignored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """A part of an answer; what a newer proxy adds is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class WorkerStatus(Answer):
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
    last_pid: int | None = None
    """The process of this slot that ended last, and how."""


class AgeOrder(Answer):
    """An age in seconds that was ordered. Times are the proxy's epoch seconds."""

    seconds: float
    since: float
    until: float
    reason: str = ""


class RecycleAge(Answer):
    """After how many seconds of serving workers are replaced (None: never), and what was ordered about it."""

    seconds: float | None = None
    configured_seconds: float = 0.0
    ordered: AgeOrder | None = None


class MasterStatus(Answer):
    """The master and its slots."""

    pid: int
    version: str = ""
    started_at: float
    state: Literal["serving", "starting", "stopping"]
    workers: tuple[WorkerStatus, ...] = ()
    recycle_age: RecycleAge | None = None
    """None: a proxy that knows of no age."""
    config_last_reload_successful: bool = True


class WorkerEvent(Answer):
    """One change of one worker."""

    event: Literal["starting", "serving", "draining", "exited", "backoff"]
    slot: int
    pid: int | None = None
    at: float
    last_exit: str | None = None


class WorkerHealth(Answer):
    """A worker's own answer on its private socket; `response_seconds` is how long it took."""

    status: str
    slot: int
    pid: int
    in_flight: int = 0
    draining: bool = False
    loop_lag_ms: float = 0.0
    uptime_seconds: float = 0.0
    response_seconds: float = 0.0


class WorkerMemory(Answer):
    """A worker's own account of its memory."""

    rss_bytes: int
    uss_bytes: int
    anon_bytes: int
    objects: int = 0


class GarbageCollected(Answer):
    """What a full collection in a worker did."""

    collected: int
    before_bytes: int
    after_bytes: int
    pause_ms: float


class ProviderKey(Answer):
    """State of one key of a provider, never the key."""

    id: str
    state: Literal["active", "cooldown", "dead", "retiring", "retired", "spare"]


class ProviderHealth(Answer):
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


class CacheHealth(Answer):
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


class Restraint(Answer):
    """What the proxy holds back for a time: `share` of new requests is refused (load), or is what is left (limits, a
    provider's rate). Times are the proxy's epoch seconds."""

    what: Literal["load", "limits", "rate", "key"]
    subject: str
    share: float
    since: float
    until: float
    reason: str = ""


class Warming(Answer):
    """Whether the cache is warmed, and since when an operator has had that paused."""

    enabled: bool = False
    paused: bool = False
    paused_since: float | None = None
    warmed: int = 0
    rounds: int = 0
    held_by: tuple[str, ...] = ()
