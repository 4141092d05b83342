"""`vacuum_journal`: has systemd's journal give back disk space, by age, by size or both. Its newest file always stays.

The survey holds how much it took before; the effect is recognised by its taking less.
"""

from __future__ import annotations

import os
import re
from typing import Literal

from pydantic import Field, model_validator

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProxywatchError
from watchdog.registry import Duration, Size
from watchdog.system.command import run_command
from watchdog.system.privileges import missing
from watchdog.units import format_bytes, format_duration

_USAGE = re.compile(r"take up ([0-9.]+)([BKMGTP]) in the file system")
_FREED = re.compile(r"(?m)^Vacuuming done, freed (\S+) of archived journals from (/.*)\.$")
_UNITS: dict[str, int] = {unit: 1024**power for power, unit in enumerate("BKMGTP")}
_LEAST_BYTES = 8 * 1024 * 1024


class VacuumJournalSettings(ActionSettings):
    """At least one of `keep_size`, which archived files may take together, and `keep_time`."""

    kind: Literal["vacuum_journal"]
    keep_size: Size | None = Field(None, ge=_LEAST_BYTES)
    keep_time: Duration | None = Field(None, ge=3600)
    rotate: bool = False
    """Archive the file that is written now first, so that it can be removed too."""
    journalctl: tuple[str, ...] = Field(("journalctl",), min_length=1)
    """How it is called: `[journalctl, --directory, PATH]` for another place."""

    @model_validator(mode="after")
    def _bounded(self) -> VacuumJournalSettings:
        if self.keep_size is None and self.keep_time is None:
            raise ValueError("expected `keep_size`, `keep_time` or both")
        return self


@actions.register(VacuumJournalSettings)
class VacuumJournal:
    """Fails if journalctl cannot be run, refuses, or takes too long."""

    disruptive = False

    def __init__(self, settings: VacuumJournalSettings, context: ActionContext) -> None:
        self._settings = settings

    def describe(self) -> str:
        size, time = self._settings.keep_size, self._settings.keep_time
        kept = [*([format_bytes(size)] if size is not None else ()), *([format_duration(time)] if time else ())]
        return f"vacuum the journal down to {' and '.join(kept)}"

    async def survey(self) -> Survey:
        return {"bytes": await self._usage()}

    async def perform(self, survey: Survey) -> str:
        settings = self._settings
        options = [*(["--rotate"] if settings.rotate else ())]
        if settings.keep_size is not None:
            options.append(f"--vacuum-size={settings.keep_size}")
        if settings.keep_time is not None:
            options.append(f"--vacuum-time={settings.keep_time:.0f}s")
        told = {place: freed for freed, place in _FREED.findall(await self._run(*options))}
        # Without the right to remove files journalctl says that it is done, and has freed nothing.
        if set(told.values()) == {"0B"} and not any(os.access(place, os.W_OK, effective_ids=True) for place in told):
            raise missing(
                f"CAP_DAC_OVERRIDE with ReadWritePaths={min(told)}", "to remove what is the journal's, and root's"
            )
        after = await self._usage()
        return f"the journal takes {format_bytes(after)} (it was {format_bytes(survey['bytes'])})"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            now = await self._usage()
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        seen = f"the journal took {format_bytes(survey['bytes'])} and takes {format_bytes(now)}"
        return Sighting(Outcome.DONE if now < survey["bytes"] else Outcome.NOT_DONE, seen)

    async def _usage(self) -> int:
        said = await self._run("--disk-usage")
        found = _USAGE.search(said)
        if found is None:
            raise ActionError(f"{self._settings.journalctl[0]}: does not tell what the journal takes: {said[:100]!r}")
        return round(float(found[1]) * _UNITS[found[2]])

    async def _run(self, *options: str) -> str:
        # Its words are searched, so that they must not be translated.
        argv = ("env", "LC_ALL=C", *self._settings.journalctl, *options)
        result = await run_command(argv, timeout=self._settings.timeout)
        if result.status:
            raise ActionError(f"{self._settings.journalctl[0]} {options[0]} ended with {result.status}: {result.tail}")
        return result.output
