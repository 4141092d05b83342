"""Everything that the watchdog asks of an llm-proxy: the master's socket, the workers' sockets, the public port."""

from __future__ import annotations

from watchdog.system.proxy_api.administration import AdminCalls
from watchdog.system.proxy_api.answers import (
    AgeOrder,
    AlreadyReplaced,
    CacheHealth,
    GarbageCollected,
    MasterStatus,
    ProviderHealth,
    ProviderKey,
    RecycleAge,
    Recycled,
    Restraint,
    Warming,
    WorkerEvent,
    WorkerHealth,
    WorkerMemory,
    WorkerStatus,
)
from watchdog.system.proxy_api.calling import ProxyEndpoint
from watchdog.system.proxy_api.service import ServiceCalls
from watchdog.system.proxy_api.workers import WorkerCalls

__all__ = [
    "AgeOrder",
    "AlreadyReplaced",
    "CacheHealth",
    "GarbageCollected",
    "MasterStatus",
    "ProviderHealth",
    "ProviderKey",
    "ProxyApi",
    "ProxyEndpoint",
    "RecycleAge",
    "Recycled",
    "Restraint",
    "Warming",
    "WorkerEvent",
    "WorkerHealth",
    "WorkerMemory",
    "WorkerStatus",
]


class ProxyApi(WorkerCalls, ServiceCalls, AdminCalls):
    """Typed calls. Questions raise ProbeError, effects raise ActionError; both say what was asked and where."""
