"""Puts a program's configuration and databases back: a restore point first, then only what was verified, and undone on
demand.

A restore is known by the name of its point. What it was about to put in place stands in a plan beside the point, so
that whoever comes after a crash can tell a restore that ended from one that did not.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from watchdog.backups import archive, switching
from watchdog.backups.databases import trouble_in_place
from watchdog.backups.holding import BESIDE_DATABASES, Holding, digests, in_place
from watchdog.backups.judging import Verdict, content_of, examine
from watchdog.backups.making import create_point
from watchdog.backups.manifest import Manifest
from watchdog.backups.shelf import Archive, Shelf
from watchdog.backups.switching import Change, to_the_end
from watchdog.errors import BackupError

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be put back. `archive`: that one, else the newest that verifies. `different`: the configuration must
    not be the one in place. Databases: only those that are not sound, and only of a stopped service."""

    files: bool = True
    databases: bool = False
    different: bool = False
    archive: Archive | None = None


@dataclass(slots=True)
class _Choice:
    """What was found so far. `passed_over` says why, by name."""

    changes: list[Change] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    passed_over: dict[str, str] = field(default_factory=dict)


async def restore(
    shelf: Shelf, holding: Holding, wanted: Wanted, point: Path, *, now: float, tell: Tell = lambda _: None
) -> str:
    """What was put back from where, and which archives were passed over and why. Raises BackupError, before anything
    is changed, where no archive has what is wanted. The lock is held."""
    with shelf.scratch() as scratch:
        tell("keeping everything as it is in a restore point")
        await create_point(holding, point, now=now, with_databases=wanted.databases)
        choice = await _choose(shelf, holding, wanted, scratch, tell)
        plan = {change.path: _digest(change) for change in choice.changes}
        await asyncio.to_thread(_write_plan, point, plan)
        tell("putting it in place")
        await to_the_end(lambda: switching.switch(choice.changes))
    over = "; ".join(f"passed over {name}: {why}" for name, why in choice.passed_over.items())
    return "; ".join(filter(None, ("; ".join(choice.said), over)))


async def undo(shelf: Shelf, holding: Holding, point: Path) -> str:
    """Puts everything back as the restore point has it, to the byte. Raises BackupError. The lock is held."""
    if not await asyncio.to_thread(point.exists):
        return "nothing had been changed"
    with shelf.scratch() as scratch:
        members = scratch / "members"
        members.mkdir()
        manifest = await asyncio.to_thread(archive.unpack, point, members)
        changes = _whole(holding, manifest, scratch)
        await to_the_end(lambda: switching.switch(changes))
    return f"{len(manifest.members)} files are as they were found"


def is_undone(holding: Holding, point: Path) -> bool:
    """Whether everything is as the restore point has it. Raises BackupError or OSError."""
    manifest = archive.read_manifest(point)
    now = digests(_covered(holding, manifest))
    return now == {**dict.fromkeys(now), **{m.path: m.sha256 for m in manifest.members}}


def is_restored(point: Path) -> bool:
    """Whether the restore that made this point came to its end: what it planned to put in place is there."""
    try:
        plan = json.loads(_plan_of(point).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(plan, dict) and digests(plan) == plan


def plan_time(point: Path) -> int | None:
    """When the last restore with this point said what it was about to do (nanoseconds); None: none has."""
    try:
        return _plan_of(point).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _plan_of(point: Path) -> Path:
    return point.with_name(f"{point.name}.plan")


def _write_plan(point: Path, plan: Mapping[str, str | None]) -> None:
    file = _plan_of(point)
    draft = file.with_name(f".{file.name}.new")
    try:
        with draft.open("w") as out:
            json.dump(plan, out)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
        archive.sync_directory(file.parent)
    except OSError as error:
        raise BackupError(f"{file}: cannot be written: {error.strerror}") from error


def _digest(change: Change) -> str | None:
    return None if change.member is None else change.member.sha256


async def _choose(shelf: Shelf, holding: Holding, wanted: Wanted, scratch: Path, tell: Tell) -> _Choice:
    choice = _Choice()
    files = wanted.files
    ill: dict[str, str] = {}
    if wanted.databases:
        for database in holding.databases:
            tell(f"reading {database.name} through")
            if problem := await asyncio.to_thread(trouble_in_place, database, scratch):
                ill[str(database)] = problem
            else:
                choice.said.append(f"{database.name} is sound and was left alone")
    for number, candidate in enumerate([wanted.archive] if wanted.archive else shelf.archives(holding.name)):
        if not files and not ill:
            break
        tell(f"verifying {candidate.name}")
        room = scratch / f"archive-{number}"
        room.mkdir()
        verdict = await examine(candidate.path, holding.check, room)
        why = await asyncio.to_thread(_unfit, verdict, holding, wanted) if files else verdict.problem
        if files and not why and verdict.manifest is not None:
            there = await asyncio.to_thread(in_place, holding, verdict.manifest.files)
            choice.changes += [] if there else _files_of(holding, verdict.manifest, room)
            choice.said.insert(0, f"configuration {'is that of' if there else 'from'} {candidate.name}")
            files = False
        elif why:
            choice.passed_over[candidate.name] = why
        for path in [path for path in ill if verdict.databases.get(path) == "" and holding.covers(path)]:
            choice.changes += _database_of(path, verdict, room)
            choice.said.append(f"{Path(path).name} ({ill.pop(path)}) from {candidate.name}")
    over = "; ".join(f"{name}: {why}" for name, why in choice.passed_over.items()) or "there is none"
    if files:
        raise BackupError(f"no archive of {holding.name} has a configuration to put back: {over}")
    if ill:
        raise BackupError(f"no archive of {holding.name} has a sound {', '.join(Path(p).name for p in ill)}: {over}")
    return choice


def _unfit(verdict: Verdict, holding: Holding, wanted: Wanted) -> str:
    """Why an archive's configuration is not put back."""
    manifest = verdict.manifest
    if manifest is None or verdict.problem or verdict.configuration:
        return verdict.problem or verdict.configuration
    if manifest.holding != holding.name:
        return f"it is of {manifest.holding}, not of {holding.name}"
    if manifest.point:
        return "it is a restore point"
    if manifest.minimal:
        return "it holds a minimal configuration"
    strange = [path for path in manifest.files if not holding.covers(path)]
    if strange:
        return f"it holds {strange[0]}, which is no file of {holding.name} today"
    if wanted.different and in_place(holding, manifest.files):
        return "it holds what is in place already"
    return ""


def _files_of(holding: Holding, manifest: Manifest, room: Path) -> list[Change]:
    """The configuration becomes what the archive has: what it did not have goes."""
    wanted = [Change(path, content_of(room, manifest, member), member) for path, member in manifest.files.items()]
    extra = [Change(str(path)) for path in holding.files() if str(path) not in manifest.files]
    return wanted + extra


def _database_of(path: str, verdict: Verdict, room: Path) -> list[Change]:
    assert verdict.manifest is not None
    member = next(m for m in verdict.manifest.members if m.path == path)
    return [
        *(Change(f"{path}{suffix}") for suffix in BESIDE_DATABASES),
        Change(path, content_of(room, verdict.manifest, member), member),
    ]


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
