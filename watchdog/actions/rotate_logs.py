"""`rotate_logs`: compresses logs that were rotated already, by the same kind of list as `remove_files`.

`NAME` becomes `NAME.gz` beside it, with its owner, mode and time; the original goes only when the whole of the other is
on the disk, so that a crash at any moment loses nothing. The files that a program still writes are for it to rotate:
a pattern such as `*.log.[0-9]*` leaves them out, and so does `min_age`.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import stat
import threading
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from watchdog.actions import ActionContext, Sighting, Survey, actions
from watchdog.actions.remove_files import FileListSettings, files_of, sighting_of, summary, survey_of
from watchdog.errors import ActionError
from watchdog.registry import Duration
from watchdog.system.listed_files import ListedFile, opened, unchanged
from watchdog.system.privileges import denied
from watchdog.units import format_bytes

_CHUNK_BYTES = 1024 * 1024
_SUFFIX = ".gz"
_COMPRESSED = (_SUFFIX, ".bz2", ".xz", ".zst")


class RotateLogsSettings(FileListSettings):
    """`level` is gzip's: 1 is quick, 9 is small."""

    kind: Literal["rotate_logs"]
    timeout: Duration = 300.0
    level: int = Field(6, ge=1, le=9)


@actions.register(RotateLogsSettings)
class RotateLogs:
    """Fails if a file or a directory cannot be read or written; the others are compressed all the same."""

    disruptive = False

    def __init__(self, settings: RotateLogsSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        return f"compress {self._settings.said()}"

    async def survey(self) -> Survey:
        found = await survey_of(self._settings, self._context)
        return {**found, "files": [entry for entry in found["files"] if not entry[1].endswith(_COMPRESSED)]}

    async def perform(self, survey: Survey) -> str:
        freed, count, troubles = 0, 0, list(survey.get("troubles", ()))
        stop = threading.Event()

        def compress_all() -> None:
            nonlocal freed, count
            for file in files_of(survey):
                try:
                    saved = _compress(file, self._settings.level, stop.is_set)
                except OSError as error:
                    troubles.append(denied(file.path, error))
                    continue
                if saved is not None:
                    freed, count = freed + saved, count + 1
                if stop.is_set():
                    return

        try:
            await asyncio.to_thread(compress_all)
        finally:
            stop.set()
        said = f"compressed {count} files, freed {format_bytes(freed)}"
        if troubles:
            raise ActionError(f"{said}; {summary(troubles)}")
        return said

    async def observe(self, survey: Survey) -> Sighting:
        return await sighting_of(survey)


def _compress(file: ListedFile, level: int, stopped: Callable[[], bool]) -> int | None:
    """The bytes that were freed; None if the file is not as it was found, or if it was stopped."""
    target, partial = file.name + _SUFFIX, f".{file.name}{_SUFFIX}.partial"
    with opened(file.directory) as directory:
        if not unchanged(file, directory):
            return None
        if (old := _times(target, directory)) is not None and old != file.modified:
            raise FileExistsError(errno.EEXIST, f"{target} is there already and is another one's")
        # Either nobody's, or our own of before a crash, which is made anew.
        _unlink(partial, directory)
        size: int | None = None
        try:
            size = _write(file, partial, directory, level, stopped)
            if size is None or not unchanged(file, directory):
                return None
            os.rename(partial, target, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        finally:
            _unlink(partial, directory)
        os.unlink(file.name, dir_fd=directory)
    return max(0, file.size - size)


def _write(file: ListedFile, partial: str, directory: int, level: int, stopped: Callable[[], bool]) -> int | None:
    """Compresses into a new file; its size on the disk, or None if stopped."""
    reading = os.open(file.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(reading, "rb") as source:
        found = os.fstat(reading)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writing = os.open(partial, flags, 0o600, dir_fd=directory)
        with os.fdopen(writing, "wb") as whole:
            if os.geteuid() == 0:
                os.fchown(writing, found.st_uid, found.st_gid)
            os.fchmod(writing, stat.S_IMODE(found.st_mode))
            with gzip.GzipFile(file.name, "wb", level, whole, mtime=file.modified / 1e9) as packed:
                while chunk := source.read(_CHUNK_BYTES):
                    if stopped():
                        return None
                    packed.write(chunk)
            whole.flush()
            os.utime(writing, ns=(found.st_atime_ns, file.modified))
            os.fsync(writing)
            return os.fstat(writing).st_blocks * 512


def _times(name: str, directory: int) -> int | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime_ns
    except FileNotFoundError:
        return None


def _unlink(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
