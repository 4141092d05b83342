"""What an action is: one kind of change to the world. One file a kind; a decision is never taken here.

An action surveys the world before (what will tell afterwards whether the effect happened), performs the effect once,
and can look at the world later, after a crash, and say whether it happened. It never retries by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from watchdog.backups.holding import Holding
from watchdog.backups.shelf import Shelf
from watchdog.backups.vault import Vault
from watchdog.clock import Clock
from watchdog.core.model import Outcome
from watchdog.core.targets import Target
from watchdog.errors import ActionError, ProbeError
from watchdog.memory.finder import LeakFinder
from watchdog.registry import Duration, Registry, Settings
from watchdog.system.memory_agent import MemoryAgent, MemoryAgents
from watchdog.system.proxy_api import ProxyApi
from watchdog.system.services import ServiceController

Survey = Mapping[str, Any]
"""JSON-able facts recorded with the intent."""


class ActionSettings(Settings):
    """Keys that every step has, whatever its kind."""

    timeout: Duration = 60.0
    retries: int = Field(0, ge=0, le=5)
    """How often it is tried again where it failed and the world shows that nothing has happened."""
    retry_pause: Duration = 2.0
    on_failure: Literal["next_rung", "stop", "continue"] = "next_rung"
    """`continue`: the rest of the rung is done all the same."""


@dataclass(frozen=True, slots=True)
class ActionContext:
    """What an action may touch: the target's own service and proxy, nothing else."""

    target: Target
    labels: Mapping[str, str]
    services: Mapping[str, ServiceController]
    proxies: Mapping[str, ProxyApi]
    clock: Clock
    log_dir: Path
    """Where the services' logs are; for evidence."""
    vault: Vault | None = None
    """The archives."""
    agents: MemoryAgents | None = None
    """Where processes can be asked about their memory."""
    leaks: LeakFinder | None = None
    """Diagnoses them."""
    run: str = ""
    """Which run acts: the same after a restart of the agent, and never another's. Empty where nothing acts."""

    def label(self, name: str) -> str:
        """A label of the target or of its incident. Raises ActionError where it is missing: never a guess."""
        value = self.target.labels.get(name) or self.labels.get(name, "")
        if not value:
            raise ActionError(f"target {self.target} has no {name!r}, which this action needs", permanent=True)
        return value

    @property
    def service(self) -> ServiceController:
        """The controller of the target's service. Raises ActionError for an unknown one."""
        name = self.label("service")
        if name not in self.services:
            raise ActionError(f"service {name!r} is not in the configuration", permanent=True)
        return self.services[name]

    @property
    def proxy(self) -> ProxyApi:
        """The proxy that the target's service is. Raises ActionError if the service has no `proxy` section."""
        name = self.label("service")
        if name not in self.proxies:
            raise ActionError(f"service {name!r} has no `proxy` section in the configuration", permanent=True)
        return self.proxies[name]

    async def memory_agents(self) -> tuple[MemoryAgent, ...]:
        """The memory agents of the target: the one worker that it is, else all of its service; never none. Raises
        ActionError."""
        name, worker = self.label("service"), self.target.labels.get("worker")
        if name not in self.services:
            raise ActionError(f"service {name!r} is not in the configuration", permanent=True)
        if self.agents is None:
            raise ActionError("no memory agent can be asked here", permanent=True)
        try:
            found = [one for one in await self.agents.of(name) if worker in (None, one.worker)]
        except ProbeError as error:
            raise ActionError(str(error), permanent=error.permanent, hint=error.hint) from error
        if not found:
            raise ActionError(f"no process of {self.target} can be asked about its memory now")
        return tuple(found)

    @property
    def holding(self) -> Holding:
        """What is kept of the target's service. Raises ActionError or BackupError if that is nothing."""
        if self.vault is None:
            raise ActionError("nothing is archived here", permanent=True)
        return self.vault.holding(self.label("service"))

    @property
    def shelf(self) -> Shelf:
        """Where archives are. Raises ActionError if there are none."""
        if self.vault is None:
            raise ActionError("nothing is archived here", permanent=True)
        return self.vault.shelf


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the world shows of an effect that was intended and whose result was never recorded."""

    outcome: Outcome
    note: str


class Action(Protocol):
    """The contract. Constructed as `Kind(settings, context)` for one step."""

    disruptive: bool
    """Whether users or the upstreams could notice it; budgets and backoff count these."""

    def describe(self) -> str:
        """What would happen, in one line, for a dry run."""
        ...

    async def survey(self) -> Survey:
        """Facts by which the effect will be recognised. Raises ActionError if the world cannot be read."""
        ...

    async def perform(self, survey: Survey) -> str:
        """The effect, once; returns what was seen: one line, or several, of which the first is the result and the
        whole a finding for whoever repairs the cause. Raises ActionError."""
        ...

    async def observe(self, survey: Survey) -> Sighting:
        """Whether the effect has happened, by looking only."""
        ...


actions: Registry[Action] = Registry("action")
