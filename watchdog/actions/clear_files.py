"""`clear_temporary` and `reset_cache`: remove what the service's `recovery` lists as temporary, or as its cache.

Regular files directly in the listed directories, by pattern; nothing is followed or entered. The survey holds the very
files; what changed since is left alone. A directory that is not there has nothing in it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.actions.remove_files import files_of, sighting_of, summary
from watchdog.core.model import Outcome
from watchdog.errors import ActionError
from watchdog.system.listed_files import ListedFile, find, remove
from watchdog.system.privileges import denied
from watchdog.system.services.recovery import Clearing
from watchdog.units import format_bytes

_AHEAD_SECONDS = 86400.0
"""A file counts whatever its time is, even one that a wrong clock dated a little ahead."""


class ClearTemporarySettings(ActionSettings):
    """No keys of its own: the list is `recovery.temporary`."""

    kind: Literal["clear_temporary"]


class ResetCacheSettings(ActionSettings):
    """No keys of its own: the list is `recovery.cache`, and the service must be stopped."""

    kind: Literal["reset_cache"]


class _Clear(ABC):
    disruptive = False
    what: ClassVar[str]

    def __init__(self, settings: ActionSettings, context: ActionContext) -> None:
        self._context = context

    def describe(self) -> str:
        listed = [f"{', '.join(c.patterns)} in {c.directory}" for c in self._listed()]
        return f"remove {self.what} of {self._context.label('service')}: {'; '.join(listed) or 'none is listed'}"

    async def survey(self) -> Survey:
        return await asyncio.to_thread(self._find, self._listed())

    async def perform(self, survey: Survey) -> str:
        self._listed()
        freed, troubles = await asyncio.to_thread(_remove, files_of(survey))
        troubles += survey.get("troubles", ())
        said = f"removed {len(freed)} files, freed {format_bytes(sum(freed))}"
        if troubles:
            raise ActionError(f"{said}; {summary(troubles)}")
        return said

    async def observe(self, survey: Survey) -> Sighting:
        if not files_of(survey):
            return Sighting(Outcome.NOT_DONE, "there was nothing to remove")
        return await sighting_of(survey)

    @abstractmethod
    def _listed(self) -> tuple[Clearing, ...]:
        """What `recovery` lists."""

    def _find(self, listed: Iterable[Clearing]) -> dict[str, Any]:
        files: list[ListedFile] = []
        troubles: list[str] = []
        before = self._context.clock.wall() + _AHEAD_SECONDS
        for each in listed:
            try:
                place = each.place()
            except ValueError as error:
                troubles.append(str(error))
                continue
            if Path(place).exists():
                found, wrong = find([place], each.patterns, modified_before=before, keep_newest=0)
                files += found
                troubles += wrong
        return {"files": [[f.directory, f.name, f.inode, f.size, f.modified] for f in files], "troubles": troubles}


@actions.register(ClearTemporarySettings)
class ClearTemporary(_Clear):
    """Fails if a file cannot be removed; the others are removed all the same."""

    what = "temporary files"

    def _listed(self) -> tuple[Clearing, ...]:
        recovery = self._context.holding.recovery
        return () if recovery is None else recovery.temporary


@actions.register(ResetCacheSettings)
class ResetCache(_Clear):
    """Fails if the service runs, or a file cannot be removed."""

    disruptive = True
    what = "the cache"

    async def perform(self, survey: Survey) -> str:
        status = await self._context.service.status()
        if status.state not in {"stopped", "failed"}:
            raise ActionError(f"{self._context.label('service')} is {status.state}: its cache is in use")
        return await super().perform(survey)

    def _listed(self) -> tuple[Clearing, ...]:
        recovery = self._context.holding.recovery
        return () if recovery is None else recovery.cache


def _remove(files: Iterable[ListedFile]) -> tuple[list[int], list[str]]:
    """The sizes of those that are gone, and what was in the way of the others."""
    freed: list[int] = []
    troubles: list[str] = []
    for file in files:
        try:
            if remove(file):
                freed.append(file.size)
        except OSError as error:
            troubles.append(denied(file.path, error))
    return freed, troubles
