"""`collect_garbage`: a full collection in one worker, or in every worker of the target's service; in a service that is
no llm-proxy, in every process that has a memory agent."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Literal

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.system.memory_answers import Collection
from watchdog.system.proxy_api import GarbageCollected
from watchdog.units import format_bytes

_PLURAL = {"worker": "workers", "process": "processes"}


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
        freed, collected, count = 0, 0, 0
        async for result in self._results():
            count += 1
            collected += result.collected
            freed += max(0, result.before_bytes - result.after_bytes)
        noun = "worker" if self._context.label("service") in self._context.proxies else "process"
        where = f"1 {noun}" if count == 1 else f"{count} {_PLURAL[noun]}"
        return f"collected {collected} objects in {where}, freed {format_bytes(freed)}"

    async def _results(self) -> AsyncGenerator[GarbageCollected | Collection]:
        """Of every worker that is meant, or of every process with an agent where the service is no llm-proxy."""
        if self._context.label("service") not in self._context.proxies and self._context.agents is not None:
            for agent in await self._context.memory_agents():
                yield await agent.collect()
            return
        own, proxy = self._context.target.labels.get("worker"), self._context.proxy
        status = await proxy.status()
        for worker in status.workers:
            if worker.state == "serving" and own in {None, str(worker.slot)}:
                yield await proxy.collect_garbage(worker.slot)

    async def observe(self, survey: Survey) -> Sighting:
        return Sighting(Outcome.NOT_DONE, "a collection leaves no trace; doing it again is harmless")
