"""`command`: runs one program, for effects that no built-in action has. An argv list, never a shell.

Whether it happened cannot be known by looking, unless `check` names a program that says so (exit 0: it happened).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError
from watchdog.system.command import run_command


class CommandSettings(ActionSettings):
    """`argv` may name labels of the target as `{service}` or `{worker}`: each stays one argument."""

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
        return {}

    async def perform(self, survey: Survey) -> str:
        result = await run_command(self._fill(self._settings.argv), timeout=self._settings.timeout)
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
        filled = []
        for argument in argv:
            for name, value in known.items():
                argument = argument.replace("{" + name + "}", value)
            filled.append(argument)
        return filled
