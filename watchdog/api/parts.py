"""What the control API sees of the running daemon. The daemon builds it once; on a reload it changes `loaded`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from watchdog.clock import Clock
from watchdog.metrics.series import SeriesStore
from watchdog.pipeline import Pipeline
from watchdog.playbooks.bell import Bell
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.runner import Runner
from watchdog.playbooks.surroundings import Surroundings
from watchdog.playbooks.triage import Triage
from watchdog.playbooks.verification import Verifier
from watchdog.schedule import Schedule
from watchdog.settings import Loaded
from watchdog.store.facts import Facts
from watchdog.store.outbox import Outbox
from watchdog.store.runs import Runs
from watchdog.system.proxy_api import ProxyApi
from watchdog.system.services import ServiceController
from watchdog.triggers import Triggers


@dataclass(slots=True)
class Parts:
    """References, not copies: reading them gives the present state. All on the event loop's thread."""

    loaded: Loaded
    clock: Clock
    started_at: float
    series: SeriesStore
    pipeline: Pipeline
    desk: Desk
    runs: Runs
    runner: Runner
    triage: Triage
    verifier: Verifier
    facts: Facts
    surroundings: Surroundings
    outbox: Outbox
    schedule: Schedule
    bell: Bell
    triggers: Triggers
    services: Mapping[str, ServiceController]
    proxies: Mapping[str, ProxyApi]
    reload: Callable[[], Awaitable[str]]
    """Reads the configuration again; returns what was done, or raises ConfigError and keeps the last good one."""
    probe_now: Callable[[str], Awaitable[None]]
    """Runs one probe at once through the pipeline. KeyError for an unknown name."""
    refused: str = ""
    """Why the configuration in place was refused, at the start or by the last reload, so that the last good one is in
    force; empty after a good one."""
    ready: bool = False
    unstarted: dict[str, str] = field(default_factory=dict)
    """Services that could not be started when the daemon began or took them over: why."""
