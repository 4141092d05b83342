"""`journal`: follows systemd's journal, and counts the entries that match by message id, field or text.

`journal_matches_total{journal,match}` for each match, `journal_entries_total{journal}` and `journal_following{journal}`
(0/1); `journal` is the probe's name. Of a match that says by which field it is told whom an entry is about also
`journal_unit_matches_total{journal,match,unit}` and `journal_match_timestamp_seconds{journal,match,unit}` (when the
last one was written), for the 32 units that it was lately about. A match is emitted at once; the note is the last
matching entry. It begins where an earlier life of this agent stopped, if the agent keeps a memory for it, else with
what is written from now on.
Matches that come by default, of what systemd itself says: `unit_failed`, `unit_start_failed` (a start job failed),
`unit_restarting` (it is about to start it again), `unit_watchdog` (it gave no sign of life in time),
`unit_out_of_memory` (the kernel killed a process of it), `unit_oomd_kill` (systemd-oomd did) and `coredump`. Rules
read the counts; those that are shipped know these, and any match of a probe with the label `severity: warning` or
`critical`.
Fails while `journalctl` does not run: it is not installed (it comes with systemd), or it may not read the journal (the
user of this agent belongs into the group systemd-journal). It is started again every five seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from watchdog.core.model import Labels, Measurement, Sample, labels_of
from watchdog.errors import ActionError, StoreError
from watchdog.probes import Emit, MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.probes.http import Pattern
from watchdog.registry import Duration, Settings
from watchdog.system.command import run_command

_RETRY_SECONDS = 5.0
_REMEMBER_EVERY_SECONDS = 5.0
_LONGEST_ENTRY = 1024 * 1024
_SEARCHED_CHARACTERS = 4096
_SHOWN_CHARACTERS = 200
_MOST_UNITS = 32
_LONGEST_UNIT = 255
"""systemd's own UNIT_NAME_MAX."""


class JournalMatch(Settings):
    """All that is given must hold of an entry."""

    message_id: str | None = Field(None, pattern=r"^[0-9a-f]{32}$")
    fields: dict[str, str] = Field(default_factory=dict, max_length=16)
    """Whole values by field, such as `{_SYSTEMD_UNIT: nginx.service}`."""
    max_priority: int | None = Field(None, ge=0, le=7)
    """As in syslog: 3 takes errors and worse."""
    text: Pattern | None = None
    """Searched in MESSAGE."""
    by: str = Field("", pattern=r"^(_?[A-Z][A-Z0-9_]{0,62})?$")
    """The field that names the unit which an entry is about: the label `unit`."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.message_id or self.fields or self.text) and self.max_priority is None:
            raise ValueError("expected at least one of message_id, fields, max_priority and text")
        return self

    def holds(self, entry: Mapping[str, Any]) -> bool:
        """Whether this entry, as `journalctl -o json` gives it, matches."""
        if self.message_id is not None and entry.get("MESSAGE_ID") != self.message_id:
            return False
        if any(entry.get(name) != value for name, value in self.fields.items()):
            return False
        if self.max_priority is not None:
            priority = str(entry.get("PRIORITY", ""))
            if not priority.isdecimal() or int(priority) > self.max_priority:
                return False
        return self.text is None or re.search(self.text, message_of(entry)[:_SEARCHED_CHARACTERS]) is not None


def _of_systemd(message_id: str, **fields: str) -> JournalMatch:
    """What systemd says of a unit, and nobody else: any program may write such an id."""
    return JournalMatch(message_id=message_id, fields={"_PID": "1", **fields}, by="UNIT")


_FAILED = "d9b373ed55a64feb8242e02dbe79a49c"
# From systemd's own catalogue (`journalctl --list-catalog`) and sd-messages.h.
_DEFAULT_MATCHES = {
    "unit_failed": _of_systemd(_FAILED),
    "unit_start_failed": _of_systemd("be02cf6855d2428ba40df7e9d022f03d"),
    "unit_restarting": _of_systemd("5eb03494b6584870a536b337290809b3"),
    "unit_watchdog": _of_systemd(_FAILED, UNIT_RESULT="watchdog"),
    "unit_out_of_memory": _of_systemd("fe6faa94e7774663a0da52717891d8ef"),
    "unit_oomd_kill": JournalMatch(message_id="d989611b15e44c9dbf31e3c81256e4ed", by="UNIT"),
    "coredump": JournalMatch(message_id="fc2e22bc6ee647b6b90729ab34a250b1", by="COREDUMP_UNIT"),
}


class JournalProbeSettings(ProbeSettings):
    """`matches` replaces those that are there by default."""

    kind: Literal["journal"]
    interval: Duration = Field(10.0, ge=0.05)
    matches: dict[str, JournalMatch] = Field(_DEFAULT_MATCHES, min_length=1, max_length=32)
    journalctl: tuple[str, ...] = Field(("journalctl",), min_length=1)
    """How it is called: `[journalctl, --user]`, `[journalctl, --directory=/var/log/remote]`."""


@probes.register(JournalProbeSettings)
class JournalProbe:
    """See the module."""

    def __init__(self, settings: JournalProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._context = context
        self._labels: Labels = labels_of(journal=context.name)
        self._matches = dict.fromkeys(settings.matches, 0)
        self._units: dict[tuple[str, str], _Seen] = {}
        self._entries = 0
        self._fact = f"journal_cursor:{context.name}"
        self._cursor: str | None = None
        self._remembered: str | None = None
        self._last = ""
        self._trouble = "not followed yet"
        self._following = False
        self._watched = False

    async def measure(self) -> Measurement:
        if not self._watched:
            await self._try()
            return Measurement(self._samples(), "not followed, only tried")
        if not self._following:
            raise MeasurementError(f"the journal is not followed: {self._trouble}", self._samples())
        return Measurement(self._samples(), self._last)

    async def _try(self) -> None:
        """Whether the journal can be read at all; for a probe that is run by itself."""
        try:
            result = await run_command((*self._settings.journalctl, "--lines", "0"), timeout=self._settings.timeout)
        except ActionError as error:
            raise MeasurementError(f"{error}; it comes with systemd", self._samples()) from error
        if result.status:
            raise MeasurementError(f"{self._settings.journalctl[0]}: {result.tail}", self._samples())

    async def watch(self, emit: Emit) -> None:
        self._watched = True
        self._cursor = self._remembered = self._recall()
        emit(self._samples())  # from which the first match is told as a rise
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_place())
                while True:
                    await self._follow(emit)
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._remember()

    async def _follow(self, emit: Emit) -> None:
        """One journalctl, until it ends; then `_trouble` says why."""
        # Following begins with the last ten lines unless it is told otherwise, after a cursor too.
        start = ("--lines", "all", "--after-cursor", self._cursor) if self._cursor else ("--lines", "0")
        matches = self._settings.matches.values()
        fields = {"MESSAGE", "MESSAGE_ID", "PRIORITY"}.union(*(match.fields for match in matches))
        fields.update(match.by for match in matches if match.by)
        wanted = ("--output", "json", "--output-fields", ",".join(sorted(fields)), "--all")
        argv = (*self._settings.journalctl, *wanted, "--follow", "--quiet", *start)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_LONGEST_ENTRY,
                start_new_session=True,
            )
        except OSError as error:
            self._trouble = f"{argv[0]}: {error.strerror}; it comes with systemd"
            return
        assert process.stdout is not None
        assert process.stderr is not None
        complaint = asyncio.create_task(_last_words(process.stderr))
        try:
            self._following = True
            await self._take_all(process.stdout, emit)
            await process.wait()
            said = await complaint
            self._trouble = f"{argv[0]}: {said or f'ended with status {process.returncode}'}"
            if self._cursor and "cursor" in said.lower():
                self._cursor = None  # the journal has forgotten this place
        finally:
            self._following = False
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what it started, if it is called through another program
            await process.wait()
            complaint.cancel()
            await asyncio.gather(complaint, return_exceptions=True)

    async def _take_all(self, stream: asyncio.StreamReader, emit: Emit) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                continue  # longer than we take; the reader has dropped it
            if not line:
                return
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the rest of a line of which the beginning was dropped
            if isinstance(entry, dict) and self._take(entry):
                emit(self._samples())

    def _take(self, entry: Mapping[str, Any]) -> bool:
        self._entries += 1
        self._cursor = str(entry.get("__CURSOR", "")) or self._cursor
        found = [name for name, match in self._settings.matches.items() if match.holds(entry)]
        for name in found:
            self._matches[name] += 1
            self._tell_unit(name, entry)
            self._last = f"{name}: {message_of(entry)[:_SHOWN_CHARACTERS]}"
        return bool(found)

    def _tell_unit(self, match: str, entry: Mapping[str, Any]) -> None:
        """The units that were longest not spoken of give way: names come from outside, and must not become endless."""
        by = self._settings.matches[match].by
        unit = entry.get(by, "")
        if not by or not isinstance(unit, str) or len(unit) > _LONGEST_UNIT:
            return
        seen = self._units.pop((match, unit), _Seen())
        self._units[match, unit] = _Seen(seen.count + 1, self._written_at(entry))
        mine = [key for key in self._units if key[0] == match]
        if len(mine) > _MOST_UNITS:
            del self._units[mine[0]]

    def _written_at(self, entry: Mapping[str, Any]) -> float:
        """In the agent's clock, which steps with nobody's."""
        written = str(entry.get("__REALTIME_TIMESTAMP", ""))
        clock = self._context.clock
        age = clock.wall() - int(written) / 1e6 if written.isdecimal() else 0.0
        return clock.now() - max(0.0, age)

    async def _keep_place(self) -> None:
        while True:
            await asyncio.sleep(_REMEMBER_EVERY_SECONDS)
            self._remember()

    def _recall(self) -> str | None:
        if self._context.memory is None:
            return None
        try:
            known = self._context.memory.get(self._fact)
        except StoreError:
            return None  # the agent says by itself that its memory cannot be read
        return known if isinstance(known, str) else None

    def _remember(self) -> None:
        if self._context.memory is not None and self._cursor != self._remembered:
            with contextlib.suppress(StoreError):
                self._context.memory.put(self._fact, self._cursor)
                self._remembered = self._cursor

    def _samples(self) -> tuple[Sample, ...]:
        journal = dict(self._labels)
        return (
            *(Sample("journal_matches_total", n, labels_of(journal, match=name)) for name, n in self._matches.items()),
            *self._unit_samples(),
            Sample("journal_entries_total", self._entries, self._labels),
            Sample("journal_following", float(self._following), self._labels),
        )

    def _unit_samples(self) -> Iterator[Sample]:
        for (match, unit), seen in self._units.items():
            labels = labels_of(dict(self._labels), match=match, unit=unit)
            yield Sample("journal_unit_matches_total", seen.count, labels)
            yield Sample("journal_match_timestamp_seconds", seen.written_at, labels)


@dataclass(frozen=True, slots=True)
class _Seen:
    """How often a match was about a unit, and when last."""

    count: int = 0
    written_at: float = 0.0


def message_of(entry: Mapping[str, Any]) -> str:
    """MESSAGE as text: journalctl gives bytes that are no UTF-8 as a list of numbers, and a field that was written
    several times as a list of texts."""
    message = entry.get("MESSAGE", "")
    if isinstance(message, list):
        if all(isinstance(part, int) for part in message):
            return bytes(message).decode("utf-8", "replace")
        return " ".join(map(str, message))
    return str(message)


async def _last_words(stream: asyncio.StreamReader) -> str:
    """The last line, shortened."""
    last = ""
    with contextlib.suppress(ValueError):
        while line := await stream.readline():
            last = line.decode(errors="replace").strip()[:_SHOWN_CHARACTERS] or last
    return last
