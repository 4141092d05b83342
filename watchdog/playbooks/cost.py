"""What a ladder comes to, against the budget that it is given: a rung that no window has room for can never act."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from watchdog.actions import ActionSettings, actions
from watchdog.core.permission import Window
from watchdog.errors import ConfigError
from watchdog.playbooks.effects import kind_of
from watchdog.playbooks.schema import Playbook, Rung
from watchdog.units import format_duration
from watchdog.yamlfile import Document


def disruptive(step: ActionSettings) -> bool:
    """Whether budgets count the step: its kind says so, or the step itself where its kind leaves that open."""
    own = getattr(step, "disruptive", None)
    return bool(getattr(actions.implementation(kind_of(step)), "disruptive") if own is None else own)  # noqa: B009


def refuse_unaffordable(playbook: Playbook, document: Document, default: Sequence[Window]) -> None:
    """Raises ConfigError for the first rung whose disruptive effects are more than a window of the playbook's budget
    (`default` where it has none) ever allows: the guards could only refuse it."""
    for index, rung in enumerate(playbook.ladder):
        effects = _effects(rung)
        for window in _windows(playbook, default):
            if effects > window.count:
                at = ("budget",) if playbook.budget is not None else ("ladder", index)
                reason = (
                    f"rung {rung.rung!r} comes to {_counted(effects)}, and the budget never allows more than "
                    f"{window.count} in {format_duration(window.seconds)}: it could never act"
                )
                hint = f"a budget of at least {effects} in every window, or fewer disruptive steps"
                raise ConfigError(
                    reason, file=document.file, line=document.line(at), key=".".join(map(str, at)), hint=hint
                )


def doubts(playbook: Playbook, document: Document, default: Sequence[Window]) -> Iterator[str]:
    """A line if the whole ladder, each rung as often as it may be tried, is more than its shortest window allows: the
    last rungs are then refused just when they are wanted."""
    whole = sum(rung.attempts * _effects(rung) for rung in playbook.ladder)
    tight = next((window for window in _windows(playbook, default) if whole > window.count), None)
    if tight is not None:
        key = "ladder" if playbook.budget is None else "budget"
        reason = (
            f"the whole ladder comes to {_counted(whole)}, and the budget allows {tight.count} in "
            f"{format_duration(tight.seconds)}: its last rungs may be refused"
        )
        yield str(ConfigError(reason, file=document.file, line=document.line((key,)), key=key))


def _effects(rung: Rung) -> int:
    """The way back costs nothing."""
    return sum(map(disruptive, rung.steps))


def _windows(playbook: Playbook, default: Sequence[Window]) -> Sequence[Window]:
    return default if playbook.budget is None else playbook.budget


def _counted(effects: int) -> str:
    return f"{effects} disruptive effect" + ("" if effects == 1 else "s")
