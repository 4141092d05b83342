"""`warm_cache`: has the proxy fetch the popular answers at once that its cache lacks, as it else does now and then.

What it asks costs what callers' requests cost, within the budget that the proxy's configuration sets for warming.
"""

from __future__ import annotations

from typing import Literal

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProxywatchError


class WarmCacheSettings(ActionSettings):
    """No keys of its own."""

    kind: Literal["warm_cache"]


@actions.register(WarmCacheSettings)
class WarmCache:
    """Fails if the proxy does not answer, or if warming is off or paused. The effect is a further round of warming."""

    disruptive = False

    def __init__(self, settings: WarmCacheSettings, context: ActionContext) -> None:
        self._context = context

    def describe(self) -> str:
        return f"fetch popular answers that the cache of {self._context.label('service')} lacks"

    async def survey(self) -> Survey:
        return {"rounds": (await self._context.proxy.warming()).rounds}

    async def perform(self, survey: Survey) -> str:
        now = await self._context.proxy.warm_cache()
        if not now.enabled:
            raise ActionError("warming is off in the proxy's configuration (cache.warming.enabled)", permanent=True)
        if now.held_by:
            raise ActionError(f"warming is held back: {', '.join(now.held_by)}")
        return "a round of warming begins"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            rounds = (await self._context.proxy.warming()).rounds
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        seen = f"{survey['rounds']} rounds before, {rounds} now"
        return Sighting(Outcome.DONE if rounds > survey["rounds"] else Outcome.NOT_DONE, seen)
