"""proxywatch.yaml, sorted `conf.d/*.yaml` beside it, and `PROXYWATCH_*` environment → one frozen model.

Paths of rules, playbooks and routes are relative to the file that names them; paths of state are relative to the
working directory, so that a checkout keeps everything under `./var/`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, create_model
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

import watchdog.probes
import watchdog.system.services
from watchdog.backups.holding import OWN
from watchdog.core.permission import Limits, Window
from watchdog.errors import ConfigError
from watchdog.locations import candidates, found_file
from watchdog.probes import ProbeSettings, probes
from watchdog.registry import Duration, Settings
from watchdog.system.services import ServiceSettings, services
from watchdog.units import parse_duration
from watchdog.yamlfile import Document, load, overlay, validate_as

ENVIRONMENT_PREFIX = "PROXYWATCH_"


class GuardSettings(Settings):
    """The numbers of `core.policy.Limits`, with its defaults."""

    budget: dict[str, int] = {"1h": 3, "24h": 6}
    """At most so many disruptive effects of one playbook on one target in each window."""
    host_budget: dict[str, int] = {"1h": 10}
    backoff_initial: Duration = 10.0
    backoff_max: Duration = 300.0
    health_resets_after: Duration = 600.0
    boot_grace: Duration = 5.0
    start_grace: Duration = 0.0

    def limits(self) -> Limits:
        """As the guards take them. Raises ValueError for a bad window."""
        return Limits(
            budget=_windows(self.budget),
            host_budget=_windows(self.host_budget),
            backoff_initial=self.backoff_initial,
            backoff_max=self.backoff_max,
            health_resets_after=self.health_resets_after,
            boot_grace=self.boot_grace,
            start_grace=self.start_grace,
        )


class LogSettings(Settings):
    """`format` auto: for the journal when it listens, text on a terminal and elsewhere."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json", "journal"] = "auto"


class MemorySettings(Settings):
    """Bounds of the series kept in memory."""

    retention: Duration = 3600.0
    max_series: int = Field(20_000, ge=100)
    max_samples: int = Field(4_000, ge=10)


class BackupSettings(Settings):
    """Archives of our own configuration and database, and of every service that has a `recovery` section."""

    directory: Path | None = None
    """`backups` in `state_dir` if it is not given; only its owner may enter."""
    daily_at: str = Field("03:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    """Local time."""
    keep: Duration = Field(30 * 86400.0, gt=0)
    keep_at_least: int = Field(3, ge=1)
    """So many that verify stay, however old."""
    look_every: Duration = Field(10.0, ge=0.1)
    """How often it is seen whether a configuration has changed."""


class Config(Settings):
    """The whole configuration; `config_model` fills in the unions of all registered kinds."""

    state_dir: Path = Path("var/lib/proxywatch")
    run_dir: Path = Path("var/run/proxywatch")
    log_dir: Path = Path("var/log")
    host: str = ""
    """How people know this machine in messages; empty: its host name."""
    log: LogSettings = LogSettings()
    rules: tuple[str, ...] = ("rules/*.yaml",)
    playbooks: tuple[str, ...] = ("playbooks/*.yaml",)
    routes: str = "routes.yaml"
    services: dict[str, ServiceSettings] = {}
    probes: dict[str, ProbeSettings] = {}
    guards: GuardSettings = GuardSettings()
    backups: BackupSettings = BackupSettings()
    memory: MemorySettings = MemorySettings()
    history: Duration = 90 * 86400.0
    """How long resolved incidents are kept."""


class Loaded(Settings):
    """A configuration and where it came from."""

    config: Config
    file: Path
    files: tuple[Path, ...]
    root: Path | None = None
    """Where everything was read from, if that is a copy of what stands in the places named."""

    @property
    def control_socket(self) -> Path:
        """Where the daemon listens for the command line."""
        return self.config.run_dir / "control.sock"

    def paths(self, patterns: Iterable[str], key: str) -> tuple[Path, ...]:
        """Files that the patterns name, sorted. Raises ConfigError for a pattern that matches nothing."""
        found: list[Path] = []
        for pattern in patterns:
            base = Path(pattern)
            if not base.name:
                raise ConfigError(f"expected a pattern of files, not {pattern!r}", file=str(self.file), key=key)
            matches = (
                sorted(copied(base.parent, self.root).glob(base.name))
                if base.is_absolute()
                else sorted(copied(self.file.parent, self.root).glob(pattern))
            )
            if not matches:
                raise ConfigError(f"no file matches {pattern!r}", file=str(self.file), key=key)
            found.extend(matches)
        return tuple(dict.fromkeys(found))


def copied(path: Path, root: Path | None) -> Path:
    """Where a path is in a copy of the file system below `root`; the path itself without one."""
    return path if root is None else root / path.absolute().relative_to("/")


@cache
def config_model() -> type[Config]:
    """The model with the unions of every registered probe and service kind."""
    probes.discover(watchdog.probes)
    services.discover(watchdog.system.services)
    probe: Any = probes.union()
    service: Any = services.union()
    fields: Any = {"probes": (dict[str, probe], {}), "services": (dict[str, service], {})}
    return create_model("Config", __base__=Config, **fields)


def agent_sockets(config: Config) -> dict[str, tuple[Path, ...]]:
    """By service: the sockets of its memory agents, where it has any."""
    return {name: service.memory_agents for name, service in config.services.items() if service.memory_agents}


def default_file() -> Path:
    """The first that exists of `./config/`, `/etc/proxywatch/` and the defaults that the package ships.

    Raises ConfigError if there is none.
    """
    file = found_file()
    if file is None:
        looked = ", ".join(map(str, candidates()))
        raise ConfigError(f"no configuration found; looked for {looked}", hint="write one: `proxywatch config init`")
    return file


def load_config(file: Path | None = None, root: Path | None = None) -> Loaded:
    """Reads, merges and judges everything. Raises ConfigError: file, line, key, what was expected. `root`: a copy of
    the files, read in their place."""
    file = file or default_file()
    document = load(copied(file, root))
    fragments = sorted(copied(file.parent / "conf.d", root).glob("*.yaml"))
    for fragment in fragments:
        document = overlay(document, load(fragment))
    document = overlay(document, _environment())
    config = validate_as(TypeAdapter(config_model()), document, document.data)
    _check(config, document)
    return Loaded(config=config, file=file, files=(copied(file, root), *fragments), root=root)


def _environment() -> Document:
    """What `PROXYWATCH_SECTION__KEY` variables say, by pydantic-settings' own rules."""

    class Environment(BaseSettings):
        model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="allow")

    fields: Any = {name: (field.annotation, None) for name, field in Config.model_fields.items()}
    model = create_model("Environment", __base__=Environment, **fields)
    try:
        data = EnvSettingsSource(model)()
    except ValueError as error:
        raise ConfigError(f"cannot be read: {error}", file="environment") from error
    return Document("environment", data, {(name,): 0 for name in data})


def _check(config: Config, document: Document) -> None:
    """What no single field can know."""
    for name, probe in config.probes.items():
        if probe.service is not None and probe.service not in config.services:
            close = difflib.get_close_matches(probe.service, list(config.services), n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else f"; services: {', '.join(config.services) or 'none'}"
            raise _error(document, ("probes", name, "service"), f"no service is called {probe.service!r}{hint}")
    if OWN in config.services and config.services[OWN].recovery is not None:
        raise _error(document, ("services", OWN, "recovery"), "this name is taken: what is kept of the agent has it")
    for key in ("budget", "host_budget"):
        try:
            _windows(getattr(config.guards, key))
        except ValueError as error:
            raise _error(document, ("guards", key), str(error)) from None


def _error(document: Document, path: tuple[str, ...], message: str) -> ConfigError:
    return ConfigError(message, file=document.file_of(path), line=document.line(path), key=".".join(path))


def _windows(budget: dict[str, int]) -> tuple[Window, ...]:
    windows = [Window(parse_duration(window), count) for window, count in budget.items()]
    if any(window.count < 0 for window in windows):
        raise ValueError("a budget cannot be below 0")
    return tuple(sorted(windows, key=lambda window: window.seconds))
