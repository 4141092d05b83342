"""Takes a restore back, to the byte; what somebody else changed since is kept first, where people can put it back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from watchdog.backups import archive, switching
from watchdog.backups.holding import BESIDE_DATABASES, Holding, digests
from watchdog.backups.judging import content_of
from watchdog.backups.making import keep_found
from watchdog.backups.manifest import Manifest
from watchdog.backups.minimal import is_untouched
from watchdog.backups.restoring import written
from watchdog.backups.shelf import Shelf
from watchdog.backups.switching import Change, to_the_end
from watchdog.errors import BackupError

_MOST_NAMED = 5


async def undo(shelf: Shelf, holding: Holding, point: Path, *, now: float) -> str:
    """Puts everything back as the restore point has it, to the byte. A file that is neither of the restore point nor of
    the restore was changed by somebody else: it is kept first, and the answer says which and where, also when an undo
    goes on after a crash. Raises BackupError, before anything is changed where something cannot be kept. The lock is
    held."""
    if not await asyncio.to_thread(point.exists):
        return "nothing had been changed"
    with shelf.scratch() as scratch:
        members = scratch / "members"
        members.mkdir()
        manifest = await asyncio.to_thread(archive.unpack, point, members)
        changes = _whole(holding, manifest, scratch)
        kept = await to_the_end(lambda: _spare(shelf, holding, manifest, point, now))
        await to_the_end(lambda: switching.switch(changes))
    said = [f"changed since were {_named(each.changed)}: kept in {path}" for path, each in kept.items()]
    number = len(manifest.members)
    found = "1 file is as it was found" if number == 1 else f"{number} files are as they were found"
    return "; ".join([found, *said])


def is_undone(holding: Holding, point: Path) -> bool:
    """Whether everything is as the restore point has it. Raises BackupError or OSError."""
    manifest = archive.read_manifest(point)
    now = digests(_covered(holding, manifest))
    return now == {**dict.fromkeys(now), **{m.path: m.sha256 for m in manifest.members}}


def _spare(shelf: Shelf, holding: Holding, manifest: Manifest, point: Path, now: float) -> dict[Path, Manifest]:
    """All that undoing this point has found changed and keeps, with what it had kept before already."""
    switching.sweep(member.path for member in manifest.members)
    kept = _kept(shelf, holding, point)
    safe = {(m.path, m.sha256) for each in (manifest, *kept.values()) for m in each.members} | written(point)
    try:
        there = {path: digest for path, digest in digests(_covered(holding, manifest)).items() if digest is not None}
        changed = [path for path, digest in there.items() if (path, digest) not in safe and not _is_ours(holding, path)]
        if changed:
            # A database and its log belong together; without a change there, none is copied.
            untouched = all(map(holding.names, changed))
            parts = [] if untouched else [Path(path) for path in there if not holding.names(path)]
            keep_found(shelf, holding, point.name, changed, parts, now=now)
    except OSError as error:
        raise BackupError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return _kept(shelf, holding, point)


def _kept(shelf: Shelf, holding: Holding, point: Path) -> dict[Path, Manifest]:
    """What earlier undoing of this point kept, oldest first. What cannot be read keeps nothing."""
    kept = {}
    for each in reversed(shelf.archives(holding.name, found=True)):
        try:
            manifest = archive.read_manifest(each.path)
        except BackupError:
            continue
        if manifest.undone == point.name:
            kept[each.path] = manifest
    return kept


def _is_ours(holding: Holding, path: str) -> bool:
    """A minimal configuration is made anew at any time, as long as nobody has written into it."""
    return holding.names(path) and is_untouched(Path(path).read_bytes())


def _named(paths: tuple[str, ...]) -> str:
    more = len(paths) - _MOST_NAMED
    return ", ".join(paths[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _whole(holding: Holding, manifest: Manifest, room: Path) -> list[Change]:
    """Everything that a restore point has, and nothing else where it looked."""
    for member in manifest.members:
        if not holding.covers(member.path):
            raise BackupError(f"{member.path} is no file of {holding.name} today; nothing was put back")
    members = {m.path: m for m in manifest.members}
    present = [Change(path, content_of(room, manifest, member), member) for path, member in members.items()]
    return present + [Change(path) for path in _covered(holding, manifest) if path not in members]


def _covered(holding: Holding, manifest: Manifest) -> list[str]:
    """Every path of which the restore point says what was there."""

    def paths() -> Iterator[str]:
        yield from (member.path for member in manifest.members)
        yield from map(str, holding.files())
        for database in manifest.databases:
            yield from (f"{database}{suffix}" for suffix in ("", *BESIDE_DATABASES))

    return list(dict.fromkeys(paths()))
