"""`pause_warming`: has the proxy fetch no popular answers ahead of time for a while.

That spares processors and memory, and goes on by itself afterwards. The effect is recognised by a pause that is younger
than what the survey saw.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProxywatchError
from watchdog.registry import Duration
from watchdog.units import format_duration


class PauseWarmingSettings(ActionSettings):
    """`duration` 0s has it go on."""

    kind: Literal["pause_warming"]
    duration: Duration = Field(900.0, ge=0, le=86_400)


@actions.register(PauseWarmingSettings)
class PauseWarming:
    """Fails if the proxy does not answer or takes no admin calls from us."""

    disruptive = False

    def __init__(self, settings: PauseWarmingSettings, context: ActionContext) -> None:
        self._seconds = settings.duration
        self._context = context

    def describe(self) -> str:
        service = self._context.label("service")
        if self._seconds == 0:
            return f"have the cache of {service} warmed again"
        return f"pause the warming of the cache of {service} for {format_duration(self._seconds)}"

    async def survey(self) -> Survey:
        return {"since": (await self._context.proxy.warming()).paused_since}

    async def perform(self, survey: Survey) -> str:
        proxy = self._context.proxy
        now = await (proxy.pause_warming(self._seconds) if self._seconds else proxy.resume_warming())
        if now.paused != bool(self._seconds):
            raise ActionError(f"warming is {'' if now.paused else 'not '}paused although the proxy took the order")
        return f"warming is paused for {format_duration(self._seconds)}" if self._seconds else "warming goes on"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            now = (await self._context.proxy.warming()).paused_since
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        before = survey["since"]
        done = now != before and (now is not None) == bool(self._seconds)
        return Sighting(Outcome.DONE if done else Outcome.NOT_DONE, f"warming is {'not ' * (now is None)}paused")
