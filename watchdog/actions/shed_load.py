"""`shed_load`: has the proxy refuse a share of its callers' new requests for a bounded time, evenly spread.

They are told to come back in a moment (503). What is under way, health and administration are untouched.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from watchdog.actions import ActionContext, ActionSettings, actions
from watchdog.actions.restraining import Restraining
from watchdog.registry import Duration
from watchdog.system.proxy_api import Restraint
from watchdog.units import format_duration


class ShedLoadSettings(ActionSettings):
    """`share` of new requests is refused, never nearly all; `duration` is short, and 0s ends it."""

    kind: Literal["shed_load"]
    share: float = Field(0.3, gt=0, le=0.9)
    duration: Duration = Field(120.0, ge=0, le=1800)


@actions.register(ShedLoadSettings)
class ShedLoad(Restraining):
    """Fails if the proxy does not answer or takes no admin calls from us."""

    disruptive = True
    what = "load"

    def __init__(self, settings: ShedLoadSettings, context: ActionContext) -> None:
        super().__init__(context, settings.duration)
        self._settings = settings

    def describe(self) -> str:
        service = self._context.label("service")
        if self._seconds == 0:
            return f"let all requests to {service} in again"
        return f"refuse {self._settings.share:.0%} of new requests to {service} for {format_duration(self._seconds)}"

    async def put(self, reason: str) -> Restraint:
        """See the module."""
        return await self._context.proxy.shed_load(self._settings.share, self._seconds, reason)
