"""`suspend_key`: has the proxy refuse one caller's key for a bounded time. The key itself is not seen.

The admin key that proxywatch itself uses cannot be suspended: the proxy refuses it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from watchdog.actions import ActionContext, ActionSettings, actions
from watchdog.actions.restraining import Restraining
from watchdog.registry import Duration
from watchdog.system.proxy_api import Restraint
from watchdog.units import format_duration


class SuspendKeySettings(ActionSettings):
    """`key` is its id in the proxy's configuration, otherwise the label `key` of the alert; `duration` 0s takes it
    back."""

    kind: Literal["suspend_key"]
    key: str | None = Field(None, min_length=1)
    duration: Duration = Field(3600.0, ge=0, le=86_400)


@actions.register(SuspendKeySettings)
class SuspendKey(Restraining):
    """Fails if the proxy does not answer, does not know the key, or is asked with that very key."""

    disruptive = True
    what = "key"

    def __init__(self, settings: SuspendKeySettings, context: ActionContext) -> None:
        super().__init__(context, settings.duration)
        self._settings = settings

    @property
    def subject(self) -> str:
        return self._settings.key or self._context.label("key")

    def describe(self) -> str:
        which = f"key {self.subject} of {self._context.label('service')}"
        if self._seconds == 0:
            return f"take {which} back into use"
        return f"refuse {which} for {format_duration(self._seconds)}"

    async def put(self, reason: str) -> Restraint:
        """See the module."""
        return await self._context.proxy.suspend_key(self.subject, self._seconds, reason)
