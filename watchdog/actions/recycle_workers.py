"""`recycle_workers`: replaces all workers one after another; each finishes its requests before it goes.

The effect is recognised by no worker of before being there any more.
"""

from __future__ import annotations

from typing import Literal

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ProxywatchError
from watchdog.registry import Duration


class RecycleWorkersSettings(ActionSettings):
    """`timeout` covers all of them."""

    kind: Literal["recycle_workers"]
    timeout: Duration = 300.0


@actions.register(RecycleWorkersSettings)
class RecycleWorkers:
    """Fails if the master does not answer or a replacement does not serve in time; the old one then goes on."""

    disruptive = True

    def __init__(self, settings: RecycleWorkersSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        return f"replace all workers of {self._context.label('service')}, one at a time, each drained first"

    async def survey(self) -> Survey:
        return {"pids": await self._pids()}

    async def perform(self, survey: Survey) -> str:
        await self._context.proxy.recycle_all(timeout=self._settings.timeout)
        return f"workers {survey['pids']} replaced by {await self._pids()}"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            now = await self._pids()
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        left = set(now) & set(survey["pids"])
        seen = f"workers were {survey['pids']} and now are {now}"
        if not left:
            return Sighting(Outcome.DONE, seen)
        return Sighting(Outcome.NOT_DONE if left == set(survey["pids"]) else Outcome.UNKNOWN, seen)

    async def _pids(self) -> list[int]:
        status = await self._context.proxy.status()
        return [worker.pid for worker in status.workers if worker.pid is not None]
