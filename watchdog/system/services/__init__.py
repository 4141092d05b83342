"""How a watched service is started and stopped: the contract, one file per kind beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, Self, runtime_checkable

from pydantic import field_validator, model_validator

from watchdog.clock import Clock
from watchdog.core.permission import Denial
from watchdog.core.targets import parse_target
from watchdog.errors import ActionError
from watchdog.registry import Registry, Settings
from watchdog.system.http import HttpClient
from watchdog.system.process import ProcessIdentity
from watchdog.system.proxy_api import ProxyEndpoint
from watchdog.system.services.recovery import Recovery
from watchdog.system.systemd.bus import SystemBus

ServiceState = Literal["running", "starting", "stopped", "failed", "unknown"]
"""`failed`: it ended although it should run. `unknown`: it could not be found out, so nothing should be done."""


class ServiceError(ActionError):
    """A start, stop or status did not work. `exit_code` (negative: a signal) and `log_lines` are the evidence."""

    def __init__(
        self, message: str, *, exit_code: int | None = None, log_lines: tuple[str, ...] = (), permanent: bool = False
    ) -> None:
        super().__init__(message, permanent=permanent)
        self.exit_code = exit_code
        self.log_lines = log_lines


class ServiceSettings(Settings):
    """What every kind has; each adds `kind: Literal[...]` and its own keys."""

    kind: str
    proxy: ProxyEndpoint | None = None
    """Given when the service is our llm-proxy: where it answers."""
    depends_on: tuple[str, ...] = ()
    """Targets that it cannot be well without, such as `service:database` or `host`: while one is in trouble, nothing of
    this service is restarted."""
    recovery: Recovery | None = None
    """What is archived of it, and how it is put back."""
    memory_agents: tuple[Path, ...] = ()
    """Sockets of the memory agents in its processes, for a service that mounts them; an llm-proxy's are known."""

    @field_validator("depends_on")
    @classmethod
    def _are_targets(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        for target in targets:
            parse_target(target)
        return targets

    @model_validator(mode="after")
    def _agents_once(self) -> Self:
        if self.proxy is not None and self.memory_agents:
            raise ValueError("`memory_agents` beside `proxy`: the workers of an llm-proxy are its agents")
        return self


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """What a controller is built with, besides its settings."""

    name: str
    run_dir: Path
    log_dir: Path
    clock: Clock
    http: HttpClient
    bus: SystemBus = field(default_factory=SystemBus)
    """Connects when it is first needed."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One look at a service. `on_purpose` is True when it was stopped through `stop()`, so that nobody repairs it."""

    state: ServiceState
    identity: ProcessIdentity | None = None
    since: float | None = None
    """When the process started; None if unknown."""
    note: str = ""
    on_purpose: bool = False


class ServiceController(Protocol):
    """Built as `implementation(settings, context)`."""

    name: str

    async def status(self) -> ServiceStatus:
        """Cheap enough for every second. Raises ServiceError only when it cannot be asked at all."""
        ...

    async def start(self) -> None:
        """Returns when the service answers (or lived one second); at once when it runs already. Raises ServiceError."""
        ...

    async def stop(self) -> None:
        """Returns when it has ended; it then counts as stopped on purpose. Raises ServiceError."""
        ...

    async def halt(self) -> None:
        """As `stop`, for a repair that starts it again: that is no stop on purpose. Raises ServiceError."""
        ...

    async def restart(self) -> None:
        """Stop and start; a failure in between leaves it `failed`, not stopped on purpose. Raises ServiceError."""
        ...

    async def wait_exit(self) -> None:
        """Returns when the process that runs now has ended; at once when none runs.

        Raises ServiceError when no process is known to this kind: then nothing announces the end, and `status` is
        all there is.
        """
        ...


@runtime_checkable
class Supervised(Protocol):
    """A service that something else (systemd) repairs as well."""

    def supervision(self) -> Denial | None:
        """What that supervisor was doing to it when it was last heard of; None if it leaves it to us."""
        ...

    async def watch(self, changed: Callable[[], None]) -> None:
        """Keeps that up to date and calls `changed` whenever it may be another. Does not return; raises ServiceError
        when the supervisor cannot be asked."""
        ...


services: Registry[ServiceController] = Registry("service")
