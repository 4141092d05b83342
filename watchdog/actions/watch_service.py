"""`watch_service`: looks at the target's service, some seconds apart, until it was well several times in a row.

Well: the same process runs as at the look before and, for a proxy, it says that it is ready. Changes nothing, so that
after a crash it simply begins anew.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from pydantic import Field, model_validator

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProxywatchError
from watchdog.registry import Duration
from watchdog.system.process import ProcessIdentity


class WatchServiceSettings(ActionSettings):
    """At most `looks` looks, `interval` apart; `in_a_row` good ones are enough."""

    kind: Literal["watch_service"]
    timeout: Duration = 120.0
    looks: int = Field(30, ge=1, le=1000)
    interval: Duration = Field(2.0, gt=0)
    in_a_row: int = Field(5, ge=1)

    @model_validator(mode="after")
    def _can_succeed(self) -> WatchServiceSettings:
        if self.in_a_row > self.looks:
            raise ValueError("more good looks `in_a_row` are wanted than `looks` are taken")
        if self.timeout < self.looks * self.interval:
            raise ValueError("`timeout` is shorter than all `looks` take")
        return self


@actions.register(WatchServiceSettings)
class WatchService:
    """Fails when the looks are over, with what was seen last."""

    disruptive = False

    def __init__(self, settings: WatchServiceSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context
        self._seen: ProcessIdentity | None = None

    def describe(self) -> str:
        settings, name = self._settings, self._context.label("service")
        return (
            f"watch {name} at most {settings.looks} times, {settings.interval:g} s apart,"
            f" until it is well {settings.in_a_row} times in a row"
        )

    async def survey(self) -> Survey:
        return {}

    async def perform(self, survey: Survey) -> str:
        well, trouble = 0, ""
        for look in range(1, self._settings.looks + 1):
            trouble = await self._look()
            well = 0 if trouble else well + 1
            if well == self._settings.in_a_row:
                return f"well {well} times in a row, at look {look}"
            if look < self._settings.looks:
                await asyncio.sleep(self._settings.interval)
        raise ActionError(f"not well after {self._settings.looks} looks: {trouble or 'not often enough in a row'}")

    async def observe(self, survey: Survey) -> Sighting:
        return Sighting(Outcome.NOT_DONE, "it only looks, and looks again")

    async def _look(self) -> str:
        """What is wrong now; empty: nothing."""
        service, name = self._context.service, self._context.label("service")
        try:
            status = await service.status()
            before, self._seen = self._seen, status.identity
            if status.state != "running":
                return f"{name} is {status.state}" + (f": {status.note}" if status.note else "")
            if before is not None and status.identity != before:
                return f"{name} was started again meanwhile"
            if name in self._context.proxies:
                ready, said = await self._context.proxy.ready()
                return "" if ready else said
        except ProxywatchError as error:
            return str(error)
        return ""
