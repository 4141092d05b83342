"""Performs a plan: looks at each step, does what is due, stops at the first failure and says what stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from watchdog.errors import InstallationError
from watchdog.installation.plan import Plan
from watchdog.installation.steps import Step, Undo
from watchdog.installation.world import World

Became = Literal["ok", "did", "would", "kept", "failed", "back"]


@dataclass(frozen=True, slots=True)
class Line:
    """What became of a step. `ok`: there was nothing to do; `back`: how it was before has been restored."""

    became: Became
    says: str
    note: str = ""


Tell = Callable[[Line], None]


def rehearse(plan: Plan, world: World, tell: Tell) -> bool:
    """Says what would be done, and touches nothing. True if there is something to do."""
    anything = False
    for step in plan.steps:
        finding = step.look(world)
        if finding.state == "due":
            anything = True
            world.pending.update(step.touches)
        tell(Line({"done": "ok", "due": "would", "kept": "kept"}[finding.state], step.says, finding.note))  # type: ignore[arg-type]
    return anything


def perform(plan: Plan, world: World, tell: Tell, *, back: bool = False) -> bool:
    """Does what is due. True if there was something. With `back` a failure is followed by the way back to how it was.

    Raises InstallationError for the first step that fails; nothing after it is tried.
    """
    undone: list[tuple[Step, Undo]] = []
    did = 0
    for step in plan.steps:
        try:
            did += _perform(step, world, tell, undone)
        except InstallationError as error:
            tell(Line("failed", step.says, str(error)))
            if back and did:
                _go_back(plan, world, tell, undone, step, error)
            stands = f"{did} steps before it stand" if did else "nothing was changed"
            raise InstallationError(
                f"{step.says}: failed",
                hint=f"{error.hint or 'put the cause right'}; {stands}; the same command goes on",
            ) from error
    return did > 0


def _perform(step: Step, world: World, tell: Tell, undone: list[tuple[Step, Undo]]) -> int:
    finding = step.look(world)
    if finding.state != "due":
        tell(Line("ok" if finding.state == "done" else "kept", step.says, finding.note))
        return 0
    try:
        undo = step.do(world)
    finally:
        world.save()
    if undo is not None:
        undone.append((step, undo))
    tell(Line("did", step.says, finding.note))
    return 1


def _go_back(
    plan: Plan, world: World, tell: Tell, undone: list[tuple[Step, Undo]], failed: Step, cause: InstallationError
) -> None:
    """Undoes what was changed, newest first, and has it take effect. Raises InstallationError, always."""
    try:
        for step, undo in reversed(undone):
            undo()
            world.save()
            tell(Line("back", step.says, "as it was before"))
        for step in plan.settling:
            _perform(step, world, tell, [])
    except InstallationError as error:
        raise InstallationError(
            f"{failed.says}: failed, and so did the way back: {error}",
            hint="see `systemctl status llm-proxy proxywatch`; archives of before: `proxywatch backup list`",
        ) from cause
    raise InstallationError(f"{failed.says}: failed; all is as it was before, and well", hint=cause.hint) from cause
