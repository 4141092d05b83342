"""`compact_cache`: has the proxy look at every entry of its caches and remove what only takes up room.

That is what is damaged, what has expired, and what nobody has asked for again in half of its life.
"""

from __future__ import annotations

from typing import Literal

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome


class CompactCacheSettings(ActionSettings):
    """No keys of its own."""

    kind: Literal["compact_cache"]


@actions.register(CompactCacheSettings)
class CompactCache:
    """Fails if the proxy does not answer. Harmless to repeat, so an unrecorded one counts as not done."""

    disruptive = False

    def __init__(self, settings: CompactCacheSettings, context: ActionContext) -> None:
        self._timeout = settings.timeout
        self._context = context

    def describe(self) -> str:
        return f"remove damaged, expired and unused entries from the cache of {self._context.label('service')}"

    async def survey(self) -> Survey:
        return {}

    async def perform(self, survey: Survey) -> str:
        done = await self._context.proxy.compact_cache(timeout=self._timeout)
        went = f"{done['damaged']} damaged, {done['expired']} expired and {done['unused']} unused entries removed"
        return f"{went} of {done['checked']}; {done['memory_usage_mb']:.1f} MB are left"

    async def observe(self, survey: Survey) -> Sighting:
        return Sighting(Outcome.NOT_DONE, "compaction is harmless to repeat")
