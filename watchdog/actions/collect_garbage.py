"""`collect_garbage`: a full collection in one worker, or in every worker of the target's service."""

from __future__ import annotations

from typing import Literal

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.units import format_bytes


class CollectGarbageSettings(ActionSettings):
    """No keys of its own."""

    kind: Literal["collect_garbage"]


@actions.register(CollectGarbageSettings)
class CollectGarbage:
    """Fails if a worker does not answer. Harmless to repeat, so an unrecorded one counts as not done."""

    disruptive = False

    def __init__(self, settings: CollectGarbageSettings, context: ActionContext) -> None:
        self._context = context

    def describe(self) -> str:
        return f"collect garbage in {self._context.target}"

    async def survey(self) -> Survey:
        return {}

    async def perform(self, survey: Survey) -> str:
        own = self._context.target.labels.get("worker")
        status = await self._context.proxy.status()
        slots = [w.slot for w in status.workers if w.state == "serving" and own in {None, str(w.slot)}]
        freed, collected = 0, 0
        for slot in slots:
            result = await self._context.proxy.collect_garbage(slot)
            collected += result.collected
            freed += max(0, result.before_bytes - result.after_bytes)
        workers = "1 worker" if len(slots) == 1 else f"{len(slots)} workers"
        return f"collected {collected} objects in {workers}, freed {format_bytes(freed)}"

    async def observe(self, survey: Survey) -> Sighting:
        return Sighting(Outcome.NOT_DONE, "a collection leaves no trace; doing it again is harmless")
