"""`restart_service`: stops and starts the target's service through its controller.

The survey holds the main process's pid and start; the effect is recognised by another identity being there.
"""

from __future__ import annotations

from typing import Literal

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ProxywatchError


class RestartServiceSettings(ActionSettings):
    """No keys of its own."""

    kind: Literal["restart_service"]


@actions.register(RestartServiceSettings)
class RestartService:
    """Fails as the service's own start fails: with its exit code and last log lines."""

    disruptive = True

    def __init__(self, settings: RestartServiceSettings, context: ActionContext) -> None:
        self._context = context

    def describe(self) -> str:
        return f"restart service {self._context.label('service')}"

    async def survey(self) -> Survey:
        return await self._look()

    async def perform(self, survey: Survey) -> str:
        await self._context.service.restart()
        after = await self._look()
        return f"{self._context.label('service')}: {_name(survey)} → {_name(after)}"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            after = await self._look()
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        seen = f"{self._context.label('service')} was {_name(survey)} and now is {_name(after)}"
        if after["state"] in {"unknown", "starting", "stopping"}:
            return Sighting(Outcome.UNKNOWN, seen)
        if after["pid"] is not None and (after["pid"], after["start"]) != (survey["pid"], survey["start"]):
            return Sighting(Outcome.DONE, seen)
        if after["pid"] is None and survey["pid"] is None and survey["state"] == "running":
            # A controller that tells no pid: nothing distinguishes the service before from the one after.
            return Sighting(Outcome.UNKNOWN, seen)
        return Sighting(Outcome.NOT_DONE, seen)

    async def _look(self) -> dict[str, str | int | None]:
        status = await self._context.service.status()
        identity = status.identity
        return {
            "state": status.state,
            "pid": identity.pid if identity else None,
            "start": identity.start_ticks if identity else None,
        }


def _name(look: Survey) -> str:
    return f"{look['state']} (pid {look['pid']})" if look["pid"] else str(look["state"])
