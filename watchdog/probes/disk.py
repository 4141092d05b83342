"""`disk`: space, inodes, read-only state and presence of the filesystems that hold the configured paths.

By `path` and `mountpoint` (of its filesystem; where a device is mounted several times the first, as in the series of
the `system` probe): `disk_size_bytes`, `disk_free_bytes`, `disk_available_bytes` (to ordinary users),
`disk_used_ratio` (as df computes it, without what is reserved for root), `disk_inodes`, `disk_inodes_free`,
`disk_inodes_used_ratio` (all three absent where a filesystem has no fixed number of them), `disk_read_only` (0/1; of
the filesystem, not of a mount: a hardened unit sees most of the host's as read-only mounts). For paths under
`mount_points` also `disk_mounted` (0/1): while it is 0 the other figures are absent, for they would be those of the
disk beneath. A change of the mount table is announced by the kernel and measured at once. A path that is read-only on
purpose wants the probe's label `read_only: expected`, so that the shipped rule leaves it alone.
Fails, with what it has of the other paths, when a path is not there or cannot be read, or when the kernel hangs on it
(a dead network filesystem): then it is not begun a second time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from watchdog.core.model import Measurement, Sample, labels_of
from watchdog.errors import ProbeError
from watchdog.probes import Emit, MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration
from watchdog.system.kernel_events import announcements
from watchdog.system.kernel_files import read_whole

_MOUNT_TABLE = "/proc/self/mountinfo"
_PATIENCE = 0.8
"""Of the timeout: the rest is for telling what hangs."""


class DiskProbeSettings(ProbeSettings):
    """At least one path in either list."""

    kind: Literal["disk"]
    interval: Duration = Field(30.0, ge=0.05)
    paths: tuple[Path, ...] = Field((), max_length=64)
    """Any file or directory; its filesystem is meant."""
    mount_points: tuple[Path, ...] = Field((), max_length=64)
    """Where something must be mounted."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        both = (*self.paths, *self.mount_points)
        if not both:
            raise ValueError("expected at least one of paths and mount_points")
        if len(set(both)) < len(both):
            raise ValueError("a path stands twice in paths and mount_points")
        return self


@probes.register(DiskProbeSettings)
class DiskProbe:
    """See the module."""

    def __init__(self, settings: DiskProbeSettings, _context: ProbeContext) -> None:
        self._settings = settings
        self._readings: dict[Path, asyncio.Task[list[Sample] | str]] = {}

    async def measure(self) -> Measurement:
        samples, problems = await self._read_all()
        if problems:
            raise MeasurementError("; ".join(problems), samples)
        missing = [dict(s.labels)["path"] for s in samples if s.name == "disk_mounted" and not s.value]
        return Measurement(tuple(samples), f"not mounted: {', '.join(missing)}" if missing else "")

    async def watch(self, emit: Emit) -> None:
        descriptor = os.open(_MOUNT_TABLE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with announcements(descriptor) as changed:
                while True:
                    await changed.wait()
                    changed.clear()
                    samples, _ = await self._read_all()
                    emit(samples)
        finally:
            os.close(descriptor)

    async def _read_all(self) -> tuple[list[Sample], list[str]]:
        settings = self._settings
        mounts = await asyncio.to_thread(_mounts)
        for path in (*settings.paths, *settings.mount_points):
            earlier = self._readings.get(path)
            if earlier is None or earlier.done():
                must = path in settings.mount_points
                attempt = asyncio.to_thread(_attempt, path, mounts, must)
                self._readings[path] = asyncio.create_task(attempt)
        readings = dict(self._readings)
        # Our patience ends, the thread does not: it can only be left alone.
        await asyncio.wait(readings.values(), timeout=settings.timeout * _PATIENCE)
        samples: list[Sample] = []
        problems: list[str] = []
        for path, reading in readings.items():
            found = reading.result() if reading.done() else f"{path}: the kernel hangs on it"
            if isinstance(found, str):
                problems.append(found)
            else:
                samples += found
        return samples, problems


@dataclass(frozen=True, slots=True)
class _Mount:
    source: str
    read_only: bool


def _attempt(path: Path, mounts: Mapping[str, _Mount], must: bool) -> list[Sample] | str:
    """The samples of one path, or why there are none."""
    labels = labels_of(path=os.fspath(path))
    mounted = os.fspath(path) in mounts
    presence = [Sample("disk_mounted", float(mounted), labels)] if must else []
    if must and not mounted:
        return presence
    try:
        status = os.statvfs(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    nearest = _nearest(os.path.realpath(path), mounts)
    labels = labels_of(path=os.fspath(path), mountpoint=_known_as(nearest, mounts))
    read_only = Sample("disk_read_only", float(nearest in mounts and mounts[nearest].read_only), labels)
    return [*presence, *(Sample(f"disk_{name}", value, labels) for name, value in _figures(status)), read_only]


def _figures(status: os.statvfs_result) -> Iterator[tuple[str, float]]:
    used = status.f_blocks - status.f_bfree
    yield "size_bytes", status.f_blocks * status.f_frsize
    yield "free_bytes", status.f_bfree * status.f_frsize
    yield "available_bytes", status.f_bavail * status.f_frsize
    if used + status.f_bavail:
        yield "used_ratio", used / (used + status.f_bavail)
    if status.f_files:
        yield "inodes", status.f_files
        yield "inodes_free", status.f_ffree
        yield "inodes_used_ratio", (status.f_files - status.f_ffree) / status.f_files


def _mounts() -> Mapping[str, _Mount]:
    """What is mounted where, by mount point, in the order of mounting; proc_pid_mountinfo(5)."""
    try:
        lines = read_whole(_MOUNT_TABLE).splitlines()
    except OSError as error:
        raise ProbeError(f"{_MOUNT_TABLE}: {error.strerror}") from error
    found: dict[str, _Mount] = {}
    for line in lines:
        fields = line.split(b" ")
        _, source, options = fields[fields.index(b"-") + 1 :][:3]
        found[_unescaped(fields[4])] = _Mount(_unescaped(source), b"ro" in options.split(b","))
    return found


def _unescaped(field: bytes) -> str:
    # The kernel writes blanks, tabs, line ends and backslashes in names as octal escapes.
    return os.fsdecode(field.decode("unicode_escape").encode("latin-1"))


def _nearest(path: str, mounts: Mapping[str, _Mount]) -> str:
    around = [place for place in mounts if place == "/" or path == place or path.startswith(f"{place}/")]
    return max(around, key=len, default="/")


def _known_as(place: str, mounts: Mapping[str, _Mount]) -> str:
    """A device that is mounted several times is known by the first."""
    device = mounts[place].source if place in mounts else ""
    return next(p for p in mounts if mounts[p].source == device) if device.startswith("/dev/") else place
