"""`provider_key`: takes one key of a provider out of use, after a grace, or takes it back. The key itself is not seen.

The last key that still works is never retired: that would be an outage of our own making. The effect is recognised by
the state that the proxy tells of the key.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProxywatchError
from watchdog.registry import Duration
from watchdog.units import format_duration

_REACHED = {"retired": {"retiring", "retired"}, "active": {"active"}}


class ProviderKeySettings(ActionSettings):
    """`key` is its id in the proxy's configuration. During `grace` a key that retires is used only as a spare."""

    kind: Literal["provider_key"]
    key: str = Field(min_length=1)
    state: Literal["retired", "active"]
    grace: Duration = Field(0.0, ge=0, le=86_400)

    @model_validator(mode="after")
    def _grace_has_a_meaning(self) -> ProviderKeySettings:
        if self.grace and self.state != "retired":
            raise ValueError("`grace` is for `state: retired`")
        return self


@actions.register(ProviderKeySettings)
class ProviderKey:
    """Fails if the proxy does not answer, does not know the key, or if no other key would be left."""

    disruptive = False

    def __init__(self, settings: ProviderKeySettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        which = f"key {self._settings.key} of provider {self._context.label('provider')}"
        if self._settings.state == "active":
            return f"take {which} back into use"
        grace = f" after {format_duration(self._settings.grace)} as a spare" if self._settings.grace else ""
        return f"retire {which}{grace}, if another one works"

    async def survey(self) -> Survey:
        return await self._look()

    async def perform(self, survey: Survey) -> str:
        settings, provider = self._settings, self._context.label("provider")
        if settings.state == "retired" and not (await self._look())["others"]:
            raise ActionError(f"key {settings.key} is the last of {provider} that works", permanent=True)
        await self._context.proxy.set_provider_key(provider, settings.key, settings.state, settings.grace)
        after = await self._look()
        if after["state"] not in _REACHED[settings.state]:
            raise ActionError(f"key {settings.key} is {after['state']} although it was told to be {settings.state}")
        return f"key {settings.key} of {provider} is {after['state']} (it was {survey['state']})"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            now = await self._look()
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        reached = _REACHED[self._settings.state]
        done = now["state"] in reached and survey["state"] not in reached
        seen = f"key {self._settings.key} was {survey['state']} and is {now['state']}"
        return Sighting(Outcome.DONE if done else Outcome.NOT_DONE, seen)

    async def _look(self) -> dict[str, Any]:
        """The key's state, and how many others work."""
        provider = self._context.label("provider")
        known = await self._context.proxy.providers()
        if provider not in known:
            raise ActionError(f"the proxy knows no provider {provider!r}", permanent=True)
        states = {key.id: key.state for key in known[provider].keys}
        if self._settings.key not in states:
            raise ActionError(f"provider {provider} has no key {self._settings.key!r}", permanent=True)
        others = sum(state == "active" for key, state in states.items() if key != self._settings.key)
        return {"state": states[self._settings.key], "others": others}
