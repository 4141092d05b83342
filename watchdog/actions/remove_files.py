"""`remove_files`: frees disk space by removing old files, by an explicit list of directories and patterns.

Regular files directly in these directories, nothing else: no symbolic link is followed, no directory is entered or
removed. The survey holds the very files; one that changed since is left alone, and the effect is seen by their absence.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Literal

from pydantic import Field

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError
from watchdog.registry import Duration
from watchdog.system.listed_files import Directory, ListedFile, Pattern, find, remove, still_there
from watchdog.system.privileges import denied
from watchdog.units import format_bytes, format_duration

_TOLD = 3


class FileListSettings(ActionSettings):
    """Which files. Any directory with any pattern; `keep_newest` of those that match stay in each directory."""

    directories: tuple[Directory, ...] = Field(min_length=1)
    patterns: tuple[Pattern, ...] = Field(min_length=1)
    min_age: Duration = Field(gt=0)
    """Since the file was last written."""
    keep_newest: int = Field(0, ge=0)

    def said(self) -> str:
        """Which files, in words."""
        kept = f", but the newest {self.keep_newest}" if self.keep_newest else ""
        which = f"{', '.join(self.patterns)} older than {format_duration(self.min_age)}{kept}"
        return f"{which}, in {', '.join(self.directories)}"


class RemoveFilesSettings(FileListSettings):
    """`min_age` has no default: how old is old enough is for the operator to say."""

    kind: Literal["remove_files"]


@actions.register(RemoveFilesSettings)
class RemoveFiles:
    """Fails if a file or a directory cannot be read or removed; the others are removed all the same."""

    disruptive = False

    def __init__(self, settings: RemoveFilesSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        return f"remove {self._settings.said()}"

    async def survey(self) -> Survey:
        return await survey_of(self._settings, self._context)

    async def perform(self, survey: Survey) -> str:
        freed, count, troubles = 0, 0, list(survey.get("troubles", ()))
        stop = threading.Event()

        def remove_all() -> None:
            nonlocal freed, count
            for file in files_of(survey):
                if stop.is_set():
                    return
                try:
                    if remove(file):
                        freed, count = freed + file.size, count + 1
                except OSError as error:
                    troubles.append(denied(file.path, error))

        try:
            await asyncio.to_thread(remove_all)
        finally:
            stop.set()
        said = f"removed {count} files, freed {format_bytes(freed)}"
        if troubles:
            raise ActionError(f"{said}; {summary(troubles)}")
        return said

    async def observe(self, survey: Survey) -> Sighting:
        return await sighting_of(survey)


async def survey_of(settings: FileListSettings, context: ActionContext) -> dict[str, Any]:
    """The files as they are now, and what could not be read."""
    found, troubles = await asyncio.to_thread(
        find,
        settings.directories,
        settings.patterns,
        modified_before=context.clock.wall() - settings.min_age,
        keep_newest=settings.keep_newest,
    )
    return {"files": [[f.directory, f.name, f.inode, f.size, f.modified] for f in found], "troubles": troubles}


def files_of(survey: Survey) -> list[ListedFile]:
    """The files of a survey."""
    return [ListedFile(*entry) for entry in survey.get("files", ())]


async def sighting_of(survey: Survey) -> Sighting:
    """Done if none of the surveyed files is as it was. To go on with the rest is harmless, so a part counts as not."""
    files = files_of(survey)
    try:
        left = await asyncio.to_thread(still_there, files)
    except OSError as error:
        return Sighting(Outcome.UNKNOWN, f"a directory cannot be read: {error.strerror}")
    done = bool(files) and not left
    return Sighting(Outcome.DONE if done else Outcome.NOT_DONE, f"as they were: {left} of {len(files)} files")


def summary(troubles: list[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(troubles) - _TOLD} more" if len(troubles) > _TOLD else ""
    return "could not: " + "; ".join(troubles[:_TOLD]) + more
