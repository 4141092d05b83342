"""`lower_rate`: has the proxy give one provider a share of its traffic for a bounded time, and the next one the rest.

Nobody is refused for it: where no other provider is well, the request goes there all the same.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from watchdog.actions import ActionContext, ActionSettings, actions
from watchdog.actions.restraining import Restraining
from watchdog.registry import Duration
from watchdog.system.proxy_api import Restraint
from watchdog.units import format_duration


class LowerRateSettings(ActionSettings):
    """`share` of its traffic is left to the provider: 0 drains it; `duration` 0s ends it."""

    kind: Literal["lower_rate"]
    share: float = Field(0.5, ge=0, lt=1)
    duration: Duration = Field(300.0, ge=0, le=3600)


@actions.register(LowerRateSettings)
class LowerRate(Restraining):
    """Fails if the proxy does not answer or does not know the provider."""

    disruptive = False
    what = "rate"

    def __init__(self, settings: LowerRateSettings, context: ActionContext) -> None:
        super().__init__(context, settings.duration)
        self._settings = settings

    @property
    def subject(self) -> str:
        return self._context.label("provider")

    def describe(self) -> str:
        if self._seconds == 0:
            return f"give provider {self.subject} all of its traffic back"
        lasting = format_duration(self._seconds)
        return f"leave provider {self.subject} {self._settings.share:.0%} of its traffic for {lasting}"

    async def put(self, reason: str) -> Restraint:
        """See the module."""
        return await self._context.proxy.lower_rate(self.subject, self._settings.share, self._seconds, reason)
