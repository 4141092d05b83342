"""`command`: runs one program, for effects that no built-in action has. An argv list, never a shell.

Whether it happened cannot be known by looking, unless `check` names a program that says so (exit 0: it happened).
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError
from watchdog.system.command import run_command

_PLACEHOLDER = re.compile(r"\{(\{[a-z_][a-z0-9_]*\}|[a-z_][a-z0-9_]*)\}")


class CommandSettings(ActionSettings):
    """`argv` may name labels of the target as `{service}` or `{worker}`: each stays one argument. One that the target
    does not have fails the step before anything is run. `{{word}}` stands for the plain text `{word}`."""

    kind: Literal["command"]
    argv: tuple[str, ...] = Field(min_length=1)
    check: tuple[str, ...] = ()
    disruptive: bool = True


@actions.register(CommandSettings)
class Command:
    """Fails on a non-zero exit, with the last lines of output, and when the time is up."""

    disruptive = True

    def __init__(self, settings: CommandSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context
        self.disruptive = settings.disruptive

    def describe(self) -> str:
        return "run " + " ".join(self._fill(self._settings.argv))

    async def survey(self) -> Survey:
        self._fill((*self._settings.argv, *self._settings.check))
        return {}

    async def perform(self, survey: Survey) -> str:
        # Who comes after us looks what has become of it, and may do it again: it must not go on meanwhile.
        argv = self._fill(self._settings.argv)
        result = await run_command(argv, timeout=self._settings.timeout, outlives_us=False)
        if result.status != 0:
            raise ActionError(f"{self._settings.argv[0]} ended with {result.status}: {result.tail}")
        return result.tail or "exit 0"

    async def observe(self, survey: Survey) -> Sighting:
        if not self._settings.check:
            return Sighting(Outcome.UNKNOWN, "the step has no `check`, so nothing tells whether it happened")
        try:
            result = await run_command(self._fill(self._settings.check), timeout=self._settings.timeout)
        except ActionError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        return Sighting(Outcome.DONE if result.status == 0 else Outcome.NOT_DONE, f"check ended with {result.status}")

    def _fill(self, argv: tuple[str, ...]) -> list[str]:
        known = {**self._context.labels, **self._context.target.labels}

        def value(found: re.Match[str]) -> str:
            name = found[1]
            if name.startswith("{"):
                return name
            if name not in known:
                raise ActionError(f"target {self._context.target} has no {name!r} for {found[0]}", permanent=True)
            return known[name]

        return [_PLACEHOLDER.sub(value, argument) for argument in argv]
