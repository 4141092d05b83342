"""What a probe is, and the wrapper that runs one once. A probe measures and never judges; one file per kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import Field

from watchdog.clock import Clock
from watchdog.core.model import Measurement, Sample, labels_of
from watchdog.errors import ProbeError
from watchdog.registry import Duration, Registry, Settings
from watchdog.system.http import HttpClient
from watchdog.system.memory_agent import MemoryAgent, MemoryAgents
from watchdog.system.proxy_api import ProxyApi, ProxyEndpoint
from watchdog.system.services import ServiceController
from watchdog.system.systemd.bus import SystemBus

Emit = Callable[[Iterable[Sample]], None]
"""Takes samples of something that the kernel or the proxy announced just now."""


class ProbeSettings(Settings):
    """What every kind has; each adds `kind: Literal[...]`, its own keys and a default interval that suits it."""

    kind: str
    interval: Duration = Field(10.0, ge=0.05)
    timeout: Duration = Field(5.0, gt=0)
    jitter: Duration = Field(0.0, ge=0)
    labels: dict[str, str] = Field(default_factory=dict)
    """Added to all of its series."""
    service: str | None = None
    """The service that it looks at; adds the label `service`."""


class Memory(Protocol):
    """What outlives the agent: JSON-able values by name. Both raise StoreError."""

    def get(self, name: str) -> Any:
        """The value, or None."""
        ...

    def put(self, name: str, value: object) -> None:
        """Replaces the value."""
        ...


@dataclass(frozen=True, slots=True)
class ProbeContext:
    """What a probe is built with, besides its settings. `proxies` is by service name; `memory` is None for a probe
    that is run by itself, without a daemon."""

    name: str
    clock: Clock
    http: HttpClient
    services: Mapping[str, ServiceController]
    proxies: Mapping[str, ProxyEndpoint]
    memory: Memory | None = None
    bus: SystemBus | None = None
    """The system bus, for what systemd announces; None without a daemon."""
    agent_sockets: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """By service: sockets of memory agents in services that are no llm-proxy."""

    def proxy_api(self, service: str | None) -> ProxyApi:
        """The llm-proxy of the probe's service. Raises ProbeError (permanent) if there is none."""
        endpoint = self.proxies.get(service or "")
        if endpoint is None:
            wanted = f"service {service!r} has no `proxy`" if service else "the probe names no service"
            raise ProbeError(f"{wanted}, so where its llm-proxy answers is unknown", permanent=True)
        return ProxyApi(endpoint, self.http)

    async def memory_agents(self, service: str | None) -> tuple[MemoryAgent, ...]:
        """The memory agents of the probe's service that can be asked now. Raises ProbeError, a permanent one if the
        service has none."""
        if not service:
            raise ProbeError("the probe names no service, so whose memory it looks at is unknown", permanent=True)
        return await MemoryAgents(self.http, self.proxies, self.agent_sockets).of(service)


class Probe(Protocol):
    """Built as `implementation(settings, context)`. It may also be a Watcher, a Closer, or both."""

    async def measure(self) -> Measurement:
        """One measurement. Raises ProbeError (MeasurementError when something could be measured all the same)."""
        ...


@runtime_checkable
class Watcher(Protocol):
    """A probe to which something is announced between its measurements."""

    async def watch(self, emit: Emit) -> None:
        """Runs until it is cancelled and survives whatever happens to the target."""
        ...


@runtime_checkable
class Closer(Protocol):
    """A probe that holds something open."""

    async def close(self) -> None:
        """Lets it go; the probe is not used afterwards."""
        ...


probes: Registry[Probe] = Registry("probe")


class MeasurementError(ProbeError):
    """The target did not do as expected, which is itself measured: `samples` are kept beside `probe_success` 0."""

    def __init__(self, message: str, samples: Iterable[Sample] = ()) -> None:
        super().__init__(message)
        self.samples = tuple(samples)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One run. `error` is None after a success; `started_at` is steady epoch time, `duration` seconds."""

    samples: tuple[Sample, ...]
    note: str
    error: str | None
    started_at: float
    duration: float


async def run_once(probe: Probe, settings: ProbeSettings, name: str, clock: Clock) -> ProbeResult:
    """Measures within the probe's timeout. A failure to measure is a result, with `probe_success` 0 and a note.

    Other exceptions are bugs of the probe and go on.
    """
    started_at = clock.now()
    error: str | None = None
    samples: tuple[Sample, ...] = ()
    note = ""
    try:
        async with asyncio.timeout(settings.timeout):
            measurement = await probe.measure()
        samples, note = measurement.samples, measurement.note
    except MeasurementError as failure:
        samples, error = failure.samples, str(failure)
    except ProbeError as failure:
        error = str(failure)
    except TimeoutError:
        error = f"no measurement within {settings.timeout:g} s"
    except OSError as failure:
        where = f"{failure.filename}: " if failure.filename else ""
        error = f"{where}{failure.strerror or failure}"
    duration = clock.now() - started_at
    labels = labels_of(probe=name, kind=settings.kind)
    own = (
        Sample("probe_success", 0.0 if error is not None else 1.0, labels),
        Sample("probe_duration_seconds", duration, labels),
    )
    return ProbeResult((*samples, *own), note if error is None else error, error, started_at, duration)
