"""The directory of archives: their names, who may work in it, what has grown too old.

`HOLDING-20261123T030000Z.tar.gz` are archives, `points/` holds restore points, which are made by a restore and chosen
by nothing but its roll-back, and what such a roll-back found changed (`…-found.tar.gz`), chosen by people only.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from urllib.parse import quote, unquote

from watchdog.errors import BackupError

_NAME = re.compile(r"(?P<holding>[^/]+)-(?P<at>\d{8}T\d{6}Z)(?:-(?P<number>\d{1,6}))?(?P<found>-found)?\.tar\.gz")
_LOCK_SECONDS = 120.0
_LOCK_RETRY_SECONDS = 0.05
_SCRATCH = ".scratch-"
_FORGOTTEN_SECONDS = 3600.0
"""Nobody works in a directory for scratch that long: whoever made it was killed."""


@dataclass(frozen=True, slots=True)
class Archive:
    """One archive by its name. `made_at` is epoch seconds by the machine's clock then."""

    path: Path
    holding: str
    made_at: float
    number: int = 0
    found: bool = False
    """What an undo found changed, and kept."""

    @property
    def name(self) -> str:
        """As people name it."""
        return self.path.name


class Shelf:
    """One directory, made (mode 0700) when something is put there first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()

    @property
    def points(self) -> Path:
        """Where restore points are."""
        return self.directory / "points"

    def archives(self, holding: str | None = None, *, points: bool = False, found: bool = False) -> list[Archive]:
        """All of a holding, or of every one, newest first; or its restore points; or what their undoing found changed.
        Raises BackupError if the directory cannot be read."""
        directory = self.points if points or found else self.directory
        try:
            there = [*filter(None, map(_named, directory.iterdir()))]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BackupError(f"{directory}: cannot be read: {error.strerror}") from error
        mine = [a for a in there if holding in {None, a.holding} and a.found == found]
        return sorted(mine, key=lambda a: (a.made_at, a.number, a.name), reverse=True)

    def find(self, text: str) -> Archive:
        """By name or path. Raises BackupError."""
        path = Path(text) if "/" in text else self.directory / text
        archive = _named(path)
        if archive is not None and archive.found and "/" not in text:
            path = self.points / text
            archive = _named(path)
        if archive is None or not path.is_file():
            raise BackupError(f"there is no archive {text}", hint="`proxywatch backup list` shows which there are")
        return archive

    def place(self, holding: str, at: float, *, point: bool = False, found: bool = False) -> Path:
        """A path that is still free."""
        directory, end = self.points if point or found else self.directory, "-found.tar.gz" if found else ".tar.gz"
        stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
        stem = f"{quote(holding, safe='')}-{stamp}"
        names = chain([f"{stem}{end}"], (f"{stem}-{number}{end}" for number in count(1)))
        return next(path for path in map(directory.joinpath, names) if not path.exists())

    def point_of(self, holding: str, run: str) -> Path:
        """The restore point of a run, made or not."""
        return self.points / f"{quote(holding, safe='')}-run-{quote(run, safe='')}.tar.gz"

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """Held by one at a time, in this process and others. What a killed one left half-made is removed. Raises
        BackupError if the directory cannot be made, or somebody else holds it too long."""
        try:
            for directory in (self.directory, self.points):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BackupError(f"{self.directory}: cannot be used: {error.strerror}") from error
        try:
            await _locked(descriptor, self.directory)
            os.utime(descriptor)
            await asyncio.to_thread(self._sweep, os.fstat(descriptor).st_mtime - _FORGOTTEN_SECONDS)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory for what is unpacked, gone afterwards."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = tempfile.mkdtemp(prefix=_SCRATCH, dir=self.directory)
        except OSError as error:
            raise BackupError(f"{self.directory}: cannot be written: {error.strerror}") from error
        try:
            yield Path(made)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _sweep(self, before: float) -> None:
        for directory in (self.directory, self.points):
            for path in directory.glob(".*"):
                if path.name.startswith(_SCRATCH) and path.stat().st_mtime < before:
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name.endswith(".new"):
                    path.unlink(missing_ok=True)


async def _locked(descriptor: int, directory: Path) -> None:
    clock = asyncio.get_running_loop().time
    deadline = clock() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock() >= deadline:
                raise BackupError(f"{directory}: somebody else has been at work in it for too long") from None
            await asyncio.sleep(_LOCK_RETRY_SECONDS)
        else:
            return


def _named(path: Path) -> Archive | None:
    found = _NAME.fullmatch(path.name)
    if found is None:
        return None
    try:
        at = datetime.strptime(found["at"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return Archive(path, unquote(found["holding"]), at, int(found["number"] or 0), bool(found["found"]))
