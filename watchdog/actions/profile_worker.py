"""`profile_worker`: says what a worker is busy with, by looking at its stacks many times in a few seconds.

The master has the worker's signal handler write them, so that a blocked event loop is profiled as well; each look costs
the worker well under a millisecond. The hottest places stand in the incident's story. Where the target is no worker,
that one is profiled that takes most processor time.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from pydantic import Field

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError
from watchdog.registry import Duration
from watchdog.system.stack_profile import Place, profile_of
from watchdog.system.worker_load import busiest_slot
from watchdog.units import format_duration

_PLACES = 5


class ProfileWorkerSettings(ActionSettings):
    """`duration` of the whole profile; `frequency` is looks in a second, as many as the master manages."""

    kind: Literal["profile_worker"]
    duration: Duration = Field(3.0, ge=0.1, le=30)
    frequency: int = Field(20, ge=1, le=50)


@actions.register(ProfileWorkerSettings)
class ProfileWorker:
    """Fails if the worker's stacks cannot be had at all. A profile changes nothing, so an unrecorded one counts as not
    done."""

    disruptive = False

    def __init__(self, settings: ProfileWorkerSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        which = "the busiest worker" if self._named is None else f"worker {self._named}"
        return f"profile {which} for {format_duration(self._settings.duration)}"

    async def survey(self) -> Survey:
        return {}

    async def perform(self, survey: Survey) -> str:
        proxy = self._context.proxy
        slot = await busiest_slot(proxy) if self._named is None else self._named
        if slot is None:
            raise ActionError(f"no worker of {self._context.label('service')} lives")
        loop = asyncio.get_running_loop()
        started = loop.time()
        dumps: list[str] = []
        failure: ActionError | None = None
        for number in range(round(self._settings.duration * self._settings.frequency)):
            await asyncio.sleep(started + number / self._settings.frequency - loop.time())
            if loop.time() - started > self._settings.duration:
                break
            try:
                dumps.append(await proxy.worker_stacks(slot))
            except ActionError as error:
                failure = error
                if not dumps:
                    break
        if not dumps:
            raise failure or ActionError(f"worker {slot} gave no stacks")
        found = profile_of(dumps)
        running = "; ".join(_share(place, found.dumps) for place in found.places[:_PLACES])
        seconds = format_duration(loop.time() - started)
        said = f"worker {slot} was busy in {found.busy} of {found.dumps} looks in {seconds}"
        return f"{said}: {running}" if running else said

    async def observe(self, survey: Survey) -> Sighting:
        return Sighting(Outcome.NOT_DONE, "a profile changes nothing; taking it again is harmless")

    @property
    def _named(self) -> int | None:
        worker = self._context.target.labels.get("worker")
        if worker is None:
            return None
        if not worker.isdecimal():
            raise ActionError(f"target {self._context.target} has no slot number", permanent=True)
        return int(worker)


def _share(place: Place, dumps: int) -> str:
    caller = f" ← {place.caller}" if place.caller else ""
    return f"{place.seen / dumps:.0%} {place.where}{caller}"
