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
    paths: tuple[Path, ...]
    """Every file that was read."""
    refused: str = ""
    """Why what stands in place was refused, if these are the last good ones instead."""


def read_files(file: Path | None, root: Path | None = None) -> Files:
    """Reads the configuration and all that it names. Raises ConfigError for the first problem. `root`: a copy of all
    these files, read in their place."""
    loaded = load_config(file, root)
    rules = loaded.paths(loaded.config.rules, "rules")
    playbooks = loaded.paths(loaded.config.playbooks, "playbooks")
    (routes,) = loaded.paths([loaded.config.routes], "routes")
    beside = (loaded.file.parent / loaded.config.routes).parent
    return Files(
        loaded=loaded,
        groups=tuple(group for path in rules for group in load_rules(path)),
        playbooks=load_playbooks(playbooks),
        routes=load_routes(routes, beside),
        paths=(*loaded.files, *rules, *playbooks, routes),
    )
