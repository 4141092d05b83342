"""`tighten_limits`: leaves the proxy's callers a share of their limits for a bounded time, whoever they are.

Requests and tokens of callers that have limits, and the failed keys that one address may send in a minute. Callers far
below their limits notice nothing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from watchdog.actions import ActionContext, ActionSettings, actions
from watchdog.actions.restraining import Restraining
from watchdog.registry import Duration
from watchdog.system.proxy_api import Restraint
from watchdog.units import format_duration


class TightenLimitsSettings(ActionSettings):
    """`share` is what is left of each limit; `duration` 0s ends it."""

    kind: Literal["tighten_limits"]
    share: float = Field(0.25, gt=0, lt=1)
    duration: Duration = Field(900.0, ge=0, le=86_400)


@actions.register(TightenLimitsSettings)
class TightenLimits(Restraining):
    """Fails if the proxy does not answer or takes no admin calls from us."""

    disruptive = False
    what = "limits"

    def __init__(self, settings: TightenLimitsSettings, context: ActionContext) -> None:
        super().__init__(context, settings.duration)
        self._settings = settings

    def describe(self) -> str:
        service = self._context.label("service")
        if self._seconds == 0:
            return f"give callers of {service} their whole limits back"
        lasting = format_duration(self._seconds)
        return f"leave callers of {service} {self._settings.share:.0%} of their limits for {lasting}"

    async def put(self, reason: str) -> Restraint:
        """See the module."""
        return await self._context.proxy.tighten_limits(self._settings.share, self._seconds, reason)
