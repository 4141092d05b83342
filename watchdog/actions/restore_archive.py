"""`restore_archive` and `restore_point`: put the target's configuration and databases back, and take that back again.

A run makes one restore point, before anything of it is changed, of every byte as found; `restore_point` puts that in
place. Both come to the same end however often they are begun, and what was planned stands beside the restore point.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.backups.restoring import Wanted, is_restored, plan_time, restore
from watchdog.backups.undoing import is_undone, undo
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProxywatchError
from watchdog.registry import Duration


class RestoreArchiveSettings(ActionSettings):
    """`different`: from the newest good archive whose configuration is not the one in place. `databases`: those that
    are not sound, which only a stopped service allows; sound ones are left alone."""

    kind: Literal["restore_archive"]
    timeout: Duration = 300.0
    files: bool = True
    databases: bool = False
    different: bool = False

    @model_validator(mode="after")
    def _something(self) -> RestoreArchiveSettings:
        if not (self.files or self.databases):
            raise ValueError("neither `files` nor `databases`: it would put nothing back")
        return self


class RestorePointSettings(ActionSettings):
    """No keys of its own."""

    kind: Literal["restore_point"]
    timeout: Duration = 300.0


@actions.register(RestoreArchiveSettings)
class RestoreArchive:
    """Fails, before anything is changed, where no archive that verifies has what is wanted: with what is wrong with
    each."""

    disruptive = True

    def __init__(self, settings: RestoreArchiveSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        name, settings = self._context.label("service"), self._settings
        archives = self._context.shelf.archives(self._context.holding.name)
        what = ["the configuration"] * settings.files + ["every database that is not sound"] * settings.databases
        other = " and differs from what is in place" * settings.different
        newest = f"{len(archives)} archives, the newest {archives[0].name}" if archives else "no archive yet"
        return f"put back {' and '.join(what)} of {name} from the newest archive that verifies{other} ({newest})"

    async def survey(self) -> Survey:
        point = self._point()
        return {"point": str(point), "planned": await asyncio.to_thread(plan_time, point)}

    async def perform(self, survey: Survey) -> str:
        context, settings = self._context, self._settings
        if settings.databases:
            status = await context.service.status()
            if status.state not in {"stopped", "failed"}:
                raise ActionError(f"{context.label('service')} is {status.state}: its databases are in use")
        wanted = Wanted(settings.files, settings.databases, settings.different)
        async with context.shelf.lock():
            return await restore(context.shelf, context.holding, wanted, self._point(), now=context.clock.wall())

    async def observe(self, survey: Survey) -> Sighting:
        point = Path(str(survey["point"]))
        if await asyncio.to_thread(plan_time, point) == survey["planned"]:
            return Sighting(Outcome.NOT_DONE, "nothing had been changed")
        if await asyncio.to_thread(is_restored, point):
            return Sighting(Outcome.DONE, "what was to be put back is in place")
        return Sighting(Outcome.NOT_DONE, "it did not come to its end; to begin anew is harmless")

    def _point(self) -> Path:
        return _point_of(self._context)


@actions.register(RestorePointSettings)
class RestorePoint:
    """Fails if the restore point is damaged, or a file cannot be written."""

    disruptive = True

    def __init__(self, settings: RestorePointSettings, context: ActionContext) -> None:
        self._context = context

    def describe(self) -> str:
        return f"put everything of {self._context.label('service')} back as this run found it"

    async def survey(self) -> Survey:
        return {"point": str(_point_of(self._context))}

    async def perform(self, survey: Survey) -> str:
        context = self._context
        async with context.shelf.lock():
            return await undo(context.shelf, context.holding, _point_of(context), now=context.clock.wall())

    async def observe(self, survey: Survey) -> Sighting:
        point = Path(str(survey["point"]))
        if not await asyncio.to_thread(point.exists):
            return Sighting(Outcome.NOT_DONE, "there is no restore point, and nothing that had been changed")
        try:
            undone = await asyncio.to_thread(is_undone, self._context.holding, point)
        except (ProxywatchError, OSError) as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        return Sighting(
            Outcome.DONE if undone else Outcome.NOT_DONE, "as it was found" if undone else "it is not as it was found"
        )


def _point_of(context: ActionContext) -> Path:
    if not context.run:
        raise ActionError("a restore point belongs to a run, and there is none", permanent=True)
    return context.shelf.point_of(context.holding.name, context.run)
