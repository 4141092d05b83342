"""`log`: follows one log file, and counts the lines that match named patterns.

`log_matches_total{log,pattern}` for each pattern, `log_lines_total{log}`, `log_bytes_total{log}`,
`log_lines_cut_total{log}` (longer than the limit: only their beginning is searched), `log_size_bytes{log}` and
`log_modified_age_seconds{log}`; `log` is the probe's name. It begins at the end of the file, follows it over rotation
(the rest of the old file first) and truncation, and looks every half second; a match is emitted at once, beside the
last matching line in the note. Rules read the counts: with the probe's label `severity: warning` (or `critical`)
the shipped ones fire at any match.
Python's `re` is used. That is safe enough because the patterns are the operator's own and what strangers write into a
log is cut to 4096 bytes a line and 4 MiB a look before it is searched; still, a pattern with a repeat within a repeat,
such as `(a+)+$`, can take for ever on a line made for it: write possessive repeats (`a++`) there.
Fails when the file is not there or cannot be read; it goes on when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from watchdog.core.model import Labels, Measurement, Sample, labels_of
from watchdog.probes import Emit, MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.probes.http import Pattern
from watchdog.registry import Duration
from watchdog.system.follow import Follower

_LOOK_EVERY_SECONDS = 0.5
_SHOWN_CHARACTERS = 200


class LogProbeSettings(ProbeSettings):
    """`patterns` by name; each is searched in every line by itself."""

    kind: Literal["log"]
    interval: Duration = Field(10.0, ge=0.05)
    path: Path
    patterns: dict[str, Pattern] = Field(min_length=1, max_length=32)


@dataclass(slots=True)
class _Counts:
    matches: dict[str, int]
    lines: int = 0
    cut: int = 0
    last: str = ""


@probes.register(LogProbeSettings)
class LogProbe:
    """See the module."""

    def __init__(self, settings: LogProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._clock = context.clock
        self._labels: Labels = labels_of(log=context.name)
        self._patterns = {name: re.compile(pattern) for name, pattern in settings.patterns.items()}
        self._counts = _Counts(dict.fromkeys(settings.patterns, 0))
        self._follower = Follower(settings.path, self._take)
        self._looking = asyncio.Lock()

    async def measure(self) -> Measurement:
        await self._look()
        try:
            status = await asyncio.to_thread(self._settings.path.stat)
        except FileNotFoundError:
            raise MeasurementError(f"{self._settings.path} is not there", self._samples()) from None
        own = (
            Sample("log_size_bytes", status.st_size, self._labels),
            Sample("log_modified_age_seconds", max(0.0, self._clock.now() - status.st_mtime), self._labels),
        )
        return Measurement((*self._samples(), *own), self._counts.last)

    async def watch(self, emit: Emit) -> None:
        while True:
            before = sum(self._counts.matches.values())
            with contextlib.suppress(OSError):  # the next measurement says it
                await self._look()
            if sum(self._counts.matches.values()) != before:
                emit(self._samples())
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    async def close(self) -> None:
        """Lets go of the file."""
        async with self._looking:
            self._follower.close()

    async def _look(self) -> None:
        async with self._looking:
            # A thread that is looking is waited for, even by whoever is cancelled: two must not read one file.
            look = asyncio.create_task(asyncio.to_thread(self._follower.look))
            try:
                await asyncio.shield(look)
            except asyncio.CancelledError:
                await asyncio.wait({look})
                raise

    def _take(self, raw: bytes, cut: bool) -> None:
        self._counts.lines += 1
        self._counts.cut += cut
        text = raw.decode("utf-8", "replace")
        for name, pattern in self._patterns.items():
            if pattern.search(text):
                self._counts.matches[name] += 1
                self._counts.last = f"{name}: {text.strip()[:_SHOWN_CHARACTERS]}"

    def _samples(self) -> tuple[Sample, ...]:
        log, counts = dict(self._labels), self._counts
        return (
            *(Sample("log_matches_total", n, labels_of(log, pattern=name)) for name, n in counts.matches.items()),
            Sample("log_lines_total", counts.lines, self._labels),
            Sample("log_bytes_total", self._follower.bytes, self._labels),
            Sample("log_lines_cut_total", counts.cut, self._labels),
        )
