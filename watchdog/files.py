"""Everything that a configuration names, read and judged together before any of it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from watchdog.metrics.rules import RuleGroup, load_rules
from watchdog.notifiers.routes_file import RoutesConfig, load_routes
from watchdog.playbooks.schema import Playbook, load_playbooks
from watchdog.settings import Loaded, load_config


@dataclass(frozen=True, slots=True)
class Files:
    """Everything that a configuration names, read and judged."""

    loaded: Loaded
    groups: tuple[RuleGroup, ...]
    playbooks: Mapping[str, Playbook]
    routes: RoutesConfig


def read_files(file: Path | None) -> Files:
    """Reads the configuration and all that it names. Raises ConfigError for the first problem."""
    loaded = load_config(file)
    groups = tuple(group for path in loaded.paths(loaded.config.rules, "rules") for group in load_rules(path))
    playbooks = load_playbooks(loaded.paths(loaded.config.playbooks, "playbooks"))
    (routes,) = loaded.paths([loaded.config.routes], "routes")
    return Files(loaded, groups, playbooks, load_routes(routes))
