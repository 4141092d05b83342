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
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from watchdog.core.model import Labels, Measurement, Sample, labels_of
from watchdog.probes import Emit, MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.probes.http import Pattern
from watchdog.registry import Duration

_LOOK_EVERY_SECONDS = 0.5
_MOST_BYTES_A_LOOK = 4 * 1024 * 1024
_LONGEST_LINE = 4096
_SHOWN_CHARACTERS = 200


class LogProbeSettings(ProbeSettings):
    """`patterns` by name; each is searched in every line by itself."""

    kind: Literal["log"]
    interval: Duration = Field(10.0, ge=0.05)
    path: Path
    patterns: dict[str, Pattern] = Field(min_length=1, max_length=32)


@dataclass(slots=True)
class _Open:
    """The file as it is being read. `partial` is a line whose end has not been written yet."""

    descriptor: int
    identity: tuple[int, int]
    position: int
    partial: bytes = b""
    overlong: bool = False


@dataclass(slots=True)
class _Counts:
    matches: dict[str, int]
    lines: int = 0
    bytes: int = 0
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
        self._open: _Open | None = None
        self._begun = False
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
            self._let_go()

    async def _look(self) -> None:
        async with self._looking:
            # A thread that is looking is waited for, even by whoever is cancelled: two must not read one file.
            look = asyncio.create_task(asyncio.to_thread(self._read_on))
            try:
                await asyncio.shield(look)
            except asyncio.CancelledError:
                await asyncio.wait({look})
                raise

    def _read_on(self) -> None:
        """As `_follow`; a file that fails is let go, so that another one in its place is opened. Raises OSError."""
        try:
            self._follow()
        except OSError:
            self._let_go()
            raise

    def _follow(self) -> None:
        """Reads what has been written since the last look, and follows the name to another file. Raises OSError."""
        path = self._settings.path
        try:
            status = path.stat()
        except FileNotFoundError:
            status = None
        if self._open is not None:
            whole = self._read(self._open)
            same = status is not None and (status.st_dev, status.st_ino) == self._open.identity
            # Moved away without a successor: who writes may still write into it.
            if same or status is None or not whole:
                return
            self._finish_line(self._open)
            self._let_go()
        if status is None:
            self._begun = True
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        opened = os.fstat(descriptor)
        # What stood in the file when we came is old; a file that came after us is new from its beginning.
        start = 0 if self._begun else opened.st_size
        self._begun = True
        self._open = _Open(descriptor, (opened.st_dev, opened.st_ino), start)
        self._read(self._open)

    def _read(self, file: _Open) -> bool:
        """Whether that was all there is."""
        if os.fstat(file.descriptor).st_size < file.position:
            file.position, file.partial, file.overlong = 0, b"", False
        left = _MOST_BYTES_A_LOOK
        while left > 0 and (chunk := os.pread(file.descriptor, 64 * 1024, file.position)):
            file.position += len(chunk)
            left -= len(chunk)
            self._counts.bytes += len(chunk)
            *lines, rest = chunk.split(b"\n")
            for line in lines:
                file.partial += line
                self._finish_line(file)
            file.partial += rest
            if len(file.partial) > _LONGEST_LINE:
                file.partial, file.overlong = file.partial[:_LONGEST_LINE], True
        return left > 0

    def _finish_line(self, file: _Open) -> None:
        raw, cut = file.partial[:_LONGEST_LINE], file.overlong or len(file.partial) > _LONGEST_LINE
        file.partial, file.overlong = b"", False
        if not raw:
            return
        self._counts.lines += 1
        self._counts.cut += cut
        text = raw.decode("utf-8", "replace")
        for name, pattern in self._patterns.items():
            if pattern.search(text):
                self._counts.matches[name] += 1
                self._counts.last = f"{name}: {text.strip()[:_SHOWN_CHARACTERS]}"

    def _let_go(self) -> None:
        if self._open is not None:
            os.close(self._open.descriptor)
            self._open = None

    def _samples(self) -> tuple[Sample, ...]:
        log, counts = dict(self._labels), self._counts
        return (
            *(Sample("log_matches_total", n, labels_of(log, pattern=name)) for name, n in counts.matches.items()),
            Sample("log_lines_total", counts.lines, self._labels),
            Sample("log_bytes_total", counts.bytes, self._labels),
            Sample("log_lines_cut_total", counts.cut, self._labels),
        )
