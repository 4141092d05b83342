"""Puts healing together: desk, guards, runner and triage over one store, and what they may see and touch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.actions import ActionContext
from watchdog.backups.vault import Vault
from watchdog.clock import Clock
from watchdog.core.permission import Denial
from watchdog.core.targets import Target, parse_target
from watchdog.memory.finder import LeakFinder
from watchdog.metrics.series import SeriesStore
from watchdog.playbooks.bell import Bell
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.evidence import Evidence
from watchdog.playbooks.guards import Guards
from watchdog.playbooks.runner import Runner
from watchdog.playbooks.surroundings import Surroundings
from watchdog.playbooks.triage import Triage
from watchdog.playbooks.verification import Verifier
from watchdog.settings import Config, agent_sockets
from watchdog.store.facts import Facts
from watchdog.store.runs import Runs
from watchdog.system.http import HttpClient
from watchdog.system.memory_agent import MemoryAgents
from watchdog.system.proxy_api import ProxyApi
from watchdog.system.self_check import look_at_self
from watchdog.system.services import ServiceController, Supervised

_HOSTLESS = frozenset({"provider", "host", "source"})
"""Kinds of target that name no service; on a host with one proxy that one is meant."""


@dataclass(slots=True)
class World:
    """What may be looked at and touched. `config` is replaced by a reload; the mappings are kept and refilled."""

    config: Config
    services: Mapping[str, ServiceController]
    proxies: Mapping[str, ProxyApi]
    series: SeriesStore
    clock: Clock
    vault: Vault
    http: HttpClient
    leaks: LeakFinder = field(init=False)

    def __post_init__(self) -> None:
        self.leaks = LeakFinder(self.series, self.clock, self.config.state_dir / "reports")

    @property
    def agents(self) -> MemoryAgents:
        """Where processes can be asked about their memory, as configured now."""
        endpoints = {name: proxy.endpoint for name, proxy in self.proxies.items()}
        return MemoryAgents(self.http, endpoints, agent_sockets(self.config))

    def context(self, target: str, labels: Mapping[str, str]) -> ActionContext:
        """What an action on a target may touch."""
        parsed, known = parse_target(target), dict(labels)
        if parsed.kind in _HOSTLESS and "service" not in known and len(self.proxies) == 1:
            known["service"] = next(iter(self.proxies))
        return ActionContext(
            target=parsed,
            labels=known,
            services=self.services,
            proxies=self.proxies,
            clock=self.clock,
            log_dir=self.config.log_dir,
            vault=self.vault,
            agents=self.agents,
            leaks=self.leaks,
        )

    def known_targets(self) -> Iterable[Target]:
        """Everything that could be in trouble: services, their workers, providers and the host."""
        yield parse_target("host")
        for name in self.services:
            yield Target("service", (name,))
        for labels, _value, _at in self.series.latest("proxywatch_worker_up"):
            known = dict(labels)
            if known.get("service") and known.get("worker"):
                yield Target("worker", (known["service"], known["worker"]))
        for labels, _value, _at in self.series.latest("provider_up"):
            if provider := dict(labels).get("provider"):
                yield Target("provider", (provider,))

    def depends_on(self, service: str) -> tuple[str, ...]:
        """The targets that a service needs, as configured."""
        settings = self.config.services.get(service)
        return () if settings is None else settings.depends_on

    def stopped_on_purpose(self) -> frozenset[str]:
        """Services that a person stopped."""
        found = self.series.latest("proxywatch_service_stopped")
        return frozenset(dict(labels).get("service", "") for labels, value, _at in found if value == 1)

    def supervised(self) -> Mapping[str, Denial]:
        """Services that systemd itself is busy with, as far as it has told."""
        told = {name: s.supervision() for name, s in self.services.items() if isinstance(s, Supervised)}
        return {name: denial for name, denial in told.items() if denial is not None}


@dataclass(frozen=True, slots=True)
class Healing:
    """The parts, each once."""

    surroundings: Surroundings
    guards: Guards
    verifier: Verifier
    runner: Runner
    triage: Triage


def kill_switch(state_dir: Path) -> Path:
    """The file whose being there stops everything; made by `proxywatch pause` or by `touch`."""
    return state_dir / "pause"


def build_healing(
    *, world: World, desk: Desk, runs: Runs, facts: Facts, bell: Bell, holds: Callable[[str], bool]
) -> Healing:
    """Guards and runner over `desk` and the store; `holds` says whether a PromQL expression gives a series now."""
    clock, config = world.clock, world.config
    surroundings = Surroundings(
        desk=desk,
        facts=facts,
        clock=clock,
        kill_switch=kill_switch(config.state_dir),
        known=world.known_targets,
        depends_on=world.depends_on,
        look=lambda: look_at_self(clock, config.state_dir),
    )
    guards = Guards(
        desk=desk,
        runs=runs,
        surroundings=surroundings,
        clock=clock,
        limits=config.guards.limits(),
        stopped_on_purpose=world.stopped_on_purpose,
        supervised=world.supervised,
    )
    verifier = Verifier(holds, desk, clock, bell)
    runner = Runner(
        desk=desk,
        runs=runs,
        guards=guards,
        verifier=verifier,
        evidence=Evidence(desk, runs, world.context),
        context=world.context,
        clock=clock,
        bell=bell,
    )
    triage = Triage(desk=desk, runs=runs, runner=runner, guards=guards, verifier=verifier, clock=clock)
    return Healing(surroundings, guards, verifier, runner, triage)
