"""`open_circuit`: takes traffic off one provider for a bounded time; the proxy itself tries it again afterwards.

The effect ends by itself, so nothing can be left switched off, and it is recognised by the circuit's `forced` mark.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProxywatchError
from watchdog.registry import Duration
from watchdog.units import format_duration


class OpenCircuitSettings(ActionSettings):
    """`duration` is at most 30 s, so that traffic is back on the provider within 30 s of its recovery."""

    kind: Literal["open_circuit"]
    duration: Duration = Field(15.0, gt=0, le=30)


@actions.register(OpenCircuitSettings)
class OpenCircuit:
    """Fails if the proxy does not answer or does not know the provider."""

    disruptive = False

    def __init__(self, settings: OpenCircuitSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        seconds = format_duration(self._settings.duration)
        return f"take traffic off provider {self._context.label('provider')} for {seconds}; no local process is touched"

    async def survey(self) -> Survey:
        return await self._look()

    async def perform(self, survey: Survey) -> str:
        provider = self._context.label("provider")
        reason = f"proxywatch: {self._context.labels.get('class', 'fault')}"
        await self._context.proxy.set_circuit(provider, "open", seconds=self._settings.duration, reason=reason)
        after = await self._look()
        if after["circuit"] != "open":
            raise ActionError(f"the circuit of {provider} is {after['circuit']} although it was told to open")
        return f"circuit of {provider} is open (it was {survey['circuit']})"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            now = await self._look()
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        seen = f"circuit {now['circuit']}, forced: {now['forced']}"
        return Sighting(Outcome.DONE if now["forced"] and not survey["forced"] else Outcome.NOT_DONE, seen)

    async def _look(self) -> dict[str, str | bool]:
        provider = self._context.label("provider")
        known = await self._context.proxy.providers()
        if provider not in known:
            raise ActionError(f"the proxy knows no provider {provider!r}", permanent=True)
        return {"circuit": known[provider].circuit, "forced": known[provider].forced}
