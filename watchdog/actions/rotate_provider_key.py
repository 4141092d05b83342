"""`rotate_provider_key`: has the proxy take a spare key of a provider into use. The key itself is not seen.

Spares are keys that the proxy's configuration keeps back (`spare: true`). One that an operator has retired is never
taken back, for it may have leaked. The effect is recognised by the key of the survey being a spare no longer.
"""

from __future__ import annotations

from typing import Literal

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProxywatchError


class RotateProviderKeySettings(ActionSettings):
    """No keys of its own: the first spare in the configuration is taken."""

    kind: Literal["rotate_provider_key"]


@actions.register(RotateProviderKeySettings)
class RotateProviderKey:
    """Fails if the proxy does not answer, and for good if the provider has no spare key."""

    disruptive = False

    def __init__(self, settings: RotateProviderKeySettings, context: ActionContext) -> None:
        self._context = context

    def describe(self) -> str:
        return f"take a spare key of provider {self._context.label('provider')} into use"

    async def survey(self) -> Survey:
        spares = [key for key, state in (await self._states()).items() if state == "spare"]
        return {"key": spares[0] if spares else None}

    async def perform(self, survey: Survey) -> str:
        provider, key = self._context.label("provider"), survey["key"]
        if key is None:
            raise ActionError(f"provider {provider} has no spare key", permanent=True)
        await self._context.proxy.set_provider_key(provider, key, "active", 0.0)
        state = (await self._states()).get(key)
        if state == "spare":
            raise ActionError(f"key {key} of {provider} is still a spare although it was told to be active")
        return f"spare key {key} of {provider} is in use ({state})"

    async def observe(self, survey: Survey) -> Sighting:
        if survey["key"] is None:
            return Sighting(Outcome.NOT_DONE, "there was no spare key")
        try:
            state = (await self._states()).get(survey["key"])
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        return Sighting(Outcome.NOT_DONE if state == "spare" else Outcome.DONE, f"key {survey['key']} is {state}")

    async def _states(self) -> dict[str, str]:
        provider = self._context.label("provider")
        known = await self._context.proxy.providers()
        if provider not in known:
            raise ActionError(f"the proxy knows no provider {provider!r}", permanent=True)
        return {key.id: key.state for key in known[provider].keys}
