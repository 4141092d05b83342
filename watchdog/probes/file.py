"""`file`: one file, or the files that a pattern names: presence, age, size, mode, owner, checksum.

By `path`: `file_exists` (0/1), `file_age_seconds` (since it was last modified), `file_size_bytes`, `file_mode` (the
permission bits as a number: 416 is 0640), `file_owner_uid`, `file_group_gid`, and with `checksum` `file_checksum` (the
first 48 bits of its SHA-256 as a number, so that `changes()` sees every change; the note has all of it) or, with
`sha256`, `file_checksum_matches` (0/1). A file that is read whole for this is read again only after it has changed.
By `pattern`: `files_count`, `files_size_bytes` (of all), and unless there are none `files_newest_age_seconds`,
`files_oldest_age_seconds`, `files_newest_size_bytes`.
What was asked for comes beside it, for rules to compare with: `file_wanted` (0/1), `file_max_age_seconds` and
`file_max_size_bytes`, these two also for patterns (there of the newest file), and `files_min_count`.
A file that is not there is a measurement. Fails when it cannot be looked at, when it is too large for its checksum,
when a pattern names more than 10000 files, or when the kernel hangs on it: then it is not begun a second time.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from watchdog.core.model import Measurement, Sample, labels_of
from watchdog.errors import ProbeError
from watchdog.probes import MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration, Size

_MOST_FILES = 10_000
_CHECKSUM_BITS = 48


class FileProbeSettings(ProbeSettings):
    """Exactly one of `path` and `pattern`."""

    kind: Literal["file"]
    interval: Duration = Field(60.0, ge=0.05)
    timeout: Duration = Field(10.0, gt=0)
    path: Path | None = None
    pattern: str | None = Field(None, min_length=1)
    """Such as `/var/backups/**/db-*.dump`; `*` matches hidden files too, and links to files count as files."""
    wanted: bool | None = True
    """Whether the file should be there; `null`: either will do."""
    min_count: int | None = Field(None, ge=0)
    max_age: Duration | None = Field(None, gt=0)
    max_size: Size | None = Field(None, ge=0)
    checksum: bool = False
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """What the checksum should be."""
    max_checksum_size: Size = Field(64 * 1024 * 1024, ge=0)
    """A larger file is not read for its checksum."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.path is None) == (self.pattern is None):
            raise ValueError("expected exactly one of path and pattern")
        if self.pattern is not None and (self.checksum or self.sha256):
            raise ValueError("a checksum is taken of one file: give path, not pattern")
        if self.path is not None and self.min_count is not None:
            raise ValueError("min_count goes with pattern")
        return self


@probes.register(FileProbeSettings)
class FileProbe:
    """See the module."""

    def __init__(self, settings: FileProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._clock = context.clock
        self._looking: asyncio.Task[Measurement] | None = None
        self._digest: tuple[tuple[int, ...], str] | None = None

    async def measure(self) -> Measurement:
        if self._looking is not None and not self._looking.done():
            raise ProbeError("the previous look still hangs in the kernel")
        settings, now = self._settings, self._clock.now()
        if settings.path is not None:
            look = asyncio.to_thread(self._look_at, settings.path, now)
        else:
            look = asyncio.to_thread(self._look_for, settings.pattern or "", now)
        self._looking = asyncio.create_task(look)
        # The timeout ends our waiting, not the thread: that can only be left alone.
        return await asyncio.shield(self._looking)

    def _look_at(self, path: Path, now: float) -> Measurement:
        labels = labels_of(path=os.fspath(path))
        asked = [Sample(name, value, labels) for name, value in self._asked()]
        if self._settings.wanted is not None:
            asked.append(Sample("file_wanted", float(self._settings.wanted), labels))
        try:
            status = path.stat()
        except FileNotFoundError:
            return Measurement((Sample("file_exists", 0.0, labels), *asked), f"{path} is not there")
        figures = {
            "exists": 1.0,
            "age_seconds": max(0.0, now - status.st_mtime),
            "size_bytes": status.st_size,
            "mode": stat.S_IMODE(status.st_mode),
            "owner_uid": status.st_uid,
            "group_gid": status.st_gid,
        }
        samples = [*asked, *(Sample(f"file_{name}", value, labels) for name, value in figures.items())]
        note = f"mode {stat.S_IMODE(status.st_mode):04o}"
        if not self._settings.checksum and self._settings.sha256 is None:
            return Measurement(tuple(samples), note)
        try:
            digest = self._checksum(path, status)
        except ProbeError as error:
            raise MeasurementError(str(error), samples) from error
        if self._settings.sha256 is not None:
            samples.append(Sample("file_checksum_matches", float(digest == self._settings.sha256), labels))
        samples.append(Sample("file_checksum", int(digest, 16) >> (256 - _CHECKSUM_BITS), labels))
        return Measurement(tuple(samples), f"{note}, sha256 {digest}")

    def _checksum(self, path: Path, status: os.stat_result) -> str:
        limit = self._settings.max_checksum_size
        if not stat.S_ISREG(status.st_mode):
            raise ProbeError(f"{path}: no regular file, so it has no checksum")
        if status.st_size > limit:
            raise ProbeError(f"{path}: {status.st_size} bytes, too large for a checksum (max_checksum_size {limit})")
        state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if self._digest is None or self._digest[0] != state:
            with path.open("rb") as file:
                self._digest = (state, hashlib.file_digest(file, "sha256").hexdigest())
        return self._digest[1]

    def _look_for(self, pattern: str, now: float) -> Measurement:
        found = list(islice(_matches(pattern), _MOST_FILES + 1))
        if len(found) > _MOST_FILES:
            raise ProbeError(f"{pattern}: more than {_MOST_FILES} files")
        figures: dict[str, float] = {"count": len(found), "size_bytes": sum(one.st_size for one in found)}
        if found:
            newest = max(found, key=lambda one: one.st_mtime_ns)
            oldest = min(found, key=lambda one: one.st_mtime_ns)
            figures["newest_age_seconds"] = max(0.0, now - newest.st_mtime)
            figures["oldest_age_seconds"] = max(0.0, now - oldest.st_mtime)
            figures["newest_size_bytes"] = newest.st_size
        if self._settings.min_count is not None:
            figures["min_count"] = self._settings.min_count
        labels = labels_of(pattern=pattern)
        samples = [Sample(f"files_{name}", value, labels) for name, value in figures.items()]
        samples += [Sample(name, value, labels) for name, value in self._asked()]
        return Measurement(tuple(samples), f"{len(found)} files")

    def _asked(self) -> Iterator[tuple[str, float]]:
        if self._settings.max_age is not None:
            yield "file_max_age_seconds", self._settings.max_age
        if self._settings.max_size is not None:
            yield "file_max_size_bytes", self._settings.max_size


def _matches(pattern: str) -> Iterator[os.stat_result]:
    """The regular files; one that vanishes meanwhile is none."""
    whole = Path(pattern)
    for path in Path(whole.anchor).glob(os.fspath(whole.relative_to(whole.anchor))):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield status
