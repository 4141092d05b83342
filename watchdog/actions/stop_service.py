"""`stop_service`: stops the target's service for a repair that starts it again, so that it does not count as stopped on
purpose. Recognised by no process being there.
"""

from __future__ import annotations

from typing import Literal

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ProxywatchError


class StopServiceSettings(ActionSettings):
    """No keys of its own."""

    kind: Literal["stop_service"]


@actions.register(StopServiceSettings)
class StopService:
    """Fails as the controller's own stop fails; a service that does not run is stopped already."""

    disruptive = True

    def __init__(self, settings: StopServiceSettings, context: ActionContext) -> None:
        self._context = context

    def describe(self) -> str:
        return f"stop service {self._context.label('service')}"

    async def survey(self) -> Survey:
        return {"state": (await self._context.service.status()).state}

    async def perform(self, survey: Survey) -> str:
        await self._context.service.halt()
        return f"{self._context.label('service')} was {survey['state']} and is stopped"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            status = await self._context.service.status()
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        seen = f"{self._context.label('service')} was {survey['state']} and now is {status.state}"
        match status.state:
            case "stopped" | "failed":
                return Sighting(Outcome.DONE, seen)
            case "running":
                return Sighting(Outcome.NOT_DONE, seen)
            case _:
                return Sighting(Outcome.UNKNOWN, seen)
