"""Judges configuration, rules, playbooks and routes without a daemon: every problem found, one line each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from watchdog.core.permission import Limits, Window
from watchdog.errors import ConfigError
from watchdog.metrics.rules import load_rules
from watchdog.notifiers.routes_file import load_routes
from watchdog.playbooks.cost import doubts, refuse_unaffordable
from watchdog.playbooks.schema import Playbook, load_playbooks
from watchdog.settings import load_config
from watchdog.yamlfile import Document, load

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Judgement:
    """`problems` are `file:line: key: what; expected`; `warnings` are like them, and it runs all the same; the counts
    are of what was read well."""

    file: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    services: int = 0
    probes: int = 0
    rules: int = 0
    playbooks: int = 0
    receivers: int = 0


def judge(config: str | None) -> Judgement:
    """Everything that a configuration names. Each file is judged although another one is wrong."""
    try:
        loaded = load_config(Path(config) if config else None)
    except ConfigError as error:
        return Judgement(error.file, (_line(error),))
    problems: list[str] = []
    chosen = loaded.config
    rule_files = _tried(problems, lambda: loaded.paths(chosen.rules, "rules")) or ()
    found, rules = judge_rules(rule_files)
    problems += found
    known_playbooks = _tried(problems, lambda: loaded.paths(chosen.playbooks, "playbooks")) or ()
    found, warnings, playbooks = judge_playbooks(known_playbooks, chosen.guards.limits().budget)
    problems += found
    (routes_file,) = _tried(problems, lambda: loaded.paths([chosen.routes], "routes")) or (None,)
    routes = _tried(problems, lambda: load_routes(routes_file)) if routes_file is not None else None
    return Judgement(
        file=str(loaded.file),
        problems=tuple(problems),
        warnings=tuple(warnings),
        services=len(chosen.services),
        probes=len(chosen.probes),
        rules=rules,
        playbooks=playbooks,
        receivers=len(routes.receivers) if routes else 0,
    )


def rule_files(config: str | None) -> tuple[Path, ...]:
    """The rule files that a configuration names. Raises ConfigError."""
    loaded = load_config(Path(config) if config else None)
    return loaded.paths(loaded.config.rules, "rules")


def playbook_files(config: str | None) -> tuple[Path, ...]:
    """The playbook files that a configuration names. Raises ConfigError."""
    loaded = load_config(Path(config) if config else None)
    return loaded.paths(loaded.config.playbooks, "playbooks")


def budget_in_force(config: str | None) -> Sequence[Window]:
    """The budget of a playbook that has none of its own; the default one where the configuration cannot be read."""
    try:
        return load_config(Path(config) if config else None).config.guards.limits().budget
    except ConfigError:
        return Limits().budget


def judge_playbooks(files: Iterable[Path], budget: Sequence[Window]) -> tuple[list[str], list[str], int]:
    """The first problem of each file, what is doubtful in the good ones, and the number of playbooks in these.
    `budget` is that of a playbook without one of its own."""
    problems: list[str] = []
    files = tuple(files)
    good = [found for file in files if (found := _tried(problems, lambda f=file: _playbook(f, budget)))]  # type: ignore[misc]
    if not problems:
        # Each file is good by itself; two of them may still define the same name.
        _tried(problems, lambda: load_playbooks(files))
    return problems, [doubt for one, document in good for doubt in doubts(one, document, budget)], len(good)


def _playbook(file: Path, budget: Sequence[Window]) -> tuple[Playbook, Document]:
    (playbook,) = load_playbooks([file]).values()
    document = load(file)
    refuse_unaffordable(playbook, document, budget)
    return playbook, document


def judge_rules(files: Iterable[Path]) -> tuple[list[str], int]:
    """The first problem of each file, and the number of rules in the good ones."""
    problems: list[str] = []
    groups = [group for file in files for group in (_tried(problems, lambda f=file: load_rules(f)) or ())]  # type: ignore[misc]
    return problems, sum(len(group.rules) for group in groups)


def _tried(problems: list[str], read: Callable[[], T]) -> T | None:
    try:
        return read()
    except ConfigError as error:
        problems.append(_line(error))
        return None


def _line(error: ConfigError) -> str:
    return f"{error}; {error.hint}" if error.hint else str(error)
