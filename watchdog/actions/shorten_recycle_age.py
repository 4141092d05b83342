"""`shorten_recycle_age`: has the proxy replace its workers younger than configured for a bounded time, one at a time.

For a leak that comes back with every worker until somebody mends it: each is replaced before it hurts. The effect ends
by itself and is recognised by the master naming an order that is younger than what the survey saw.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProxywatchError
from watchdog.registry import Duration
from watchdog.system.proxy_api import AgeOrder
from watchdog.units import format_duration


class ShortenRecycleAgeSettings(ActionSettings):
    """Workers give way at the latest when they have served for `age`; `duration` 0s ends what was ordered."""

    kind: Literal["shorten_recycle_age"]
    age: Duration = Field(4 * 3600.0, ge=300)
    duration: Duration = Field(86400.0, ge=0, le=14 * 86400)


@actions.register(ShortenRecycleAgeSettings)
class ShortenRecycleAge:
    """Fails if the master does not answer, or is too old to know of an age."""

    disruptive = False

    def __init__(self, settings: ShortenRecycleAgeSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        service = self._context.label("service")
        if self._settings.duration == 0:
            return f"let the workers of {service} become as old as configured"
        age, lasting = format_duration(self._settings.age), format_duration(self._settings.duration)
        return f"replace the workers of {service} after {age}, one at a time, for {lasting}"

    async def survey(self) -> Survey:
        order = await self._order()
        return {"since": 0.0 if order is None else order.since}

    async def perform(self, survey: Survey) -> str:
        cause = self._context.labels.get("alertname") or "by hand"
        told = await self._context.proxy.recycle_age(
            0.0 if self._settings.duration == 0 else self._settings.age,
            self._settings.duration,
            f"proxywatch: {cause}, {self._context.target}"[:200],
        )
        if (told.ordered is None) != (self._settings.duration == 0):
            raise ActionError(f"the master took the order and says {told.model_dump()}")
        if told.seconds is None:
            return "workers may become any age"
        return f"workers are replaced after {format_duration(told.seconds)} at the latest"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            order = await self._order()
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        if self._settings.duration == 0:
            done = order is None and survey["since"] > 0
        else:
            done = order is not None and order.since > survey["since"]
        note = "no age is ordered" if order is None else f"the age {format_duration(order.seconds)} is ordered"
        return Sighting(Outcome.DONE if done else Outcome.NOT_DONE, note)

    async def _order(self) -> AgeOrder | None:
        told = (await self._context.proxy.status()).recycle_age
        if told is None:
            raise ActionError("this llm-proxy is too old to be told an age of its workers", permanent=True)
        return told.ordered
