"""Puts a program's configuration and databases back: a restore point first, then only what was verified.

A restore is known by the name of its point. What it was about to put in place stands in a plan beside the point, a line
for each restore with that point, so that whoever comes after a crash can tell a restore that ended from one that did
not, and whoever undoes it can tell what it wrote from what somebody else did.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Mapping
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
    """What was found so far. `there`: what is as wanted already, by path. `passed_over` says why, by name."""

    changes: list[Change] = field(default_factory=list)
    there: dict[str, str | None] = field(default_factory=dict)
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
        plan = choice.there | {change.path: _digest(change) for change in choice.changes}
        await asyncio.to_thread(_write_plan, point, plan)
        tell("putting it in place")
        await to_the_end(lambda: switching.switch(choice.changes))
    over = "; ".join(f"passed over {name}: {why}" for name, why in choice.passed_over.items())
    return "; ".join(filter(None, ("; ".join(choice.said), over)))


def is_restored(point: Path) -> bool:
    """Whether the restore that made this point came to its end: what it planned to put in place is there."""
    plans = _plans(point)
    return bool(plans) and digests(plans[-1]) == plans[-1]


def written(point: Path) -> set[tuple[str, str | None]]:
    """Path and digest of all that restores with this point were about to put in place."""
    return {pair for plan in _plans(point) for pair in plan.items()}


def forget(point: Path) -> None:
    """Removes a restore point that nobody comes back to, and what stands beside it. Raises BackupError."""
    try:
        for file in (plan_of(point), point):
            file.unlink(missing_ok=True)
        archive.sync_directory(point.parent)
    except OSError as error:
        raise BackupError(f"{error.filename}: cannot be removed: {error.strerror}") from error


def plan_time(point: Path) -> int | None:
    """When the last restore with this point said what it was about to do (nanoseconds); None: none has."""
    try:
        return plan_of(point).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def plan_of(point: Path) -> Path:
    """Where the plans of a restore point are, if a restore came that far."""
    return point.with_name(f"{point.name}.plan")


def _plans(point: Path) -> list[dict[str, str | None]]:
    """The last is the newest; none where they cannot be read."""
    try:
        plans = [json.loads(line) for line in plan_of(point).read_text().splitlines()]
    except (OSError, ValueError):
        return []
    return plans if all(isinstance(plan, dict) for plan in plans) else []


def _write_plan(point: Path, plan: Mapping[str, str | None]) -> None:
    file = plan_of(point)
    plans = [*(each for each in _plans(point) if each != plan), plan]
    draft = file.with_name(f".{file.name}.new")
    try:
        with draft.open("w") as out:
            out.writelines(f"{json.dumps(each)}\n" for each in plans)
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
    ill = await _ill_databases(holding, choice, scratch, tell) if wanted.databases else {}
    without: dict[str, str] = {}
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
            if there:
                choice.there = {path: member.sha256 for path, member in verdict.manifest.files.items()}
            else:
                choice.changes += _files_of(holding, verdict.manifest, room)
            choice.said.insert(0, f"configuration {'is that of' if there else 'from'} {candidate.name}")
            files = False
        elif why:
            choice.passed_over[candidate.name] = why
        for path in [path for path in ill if verdict.databases.get(path) == "" and holding.covers(path)]:
            choice.changes += _database_of(path, verdict, room)
            choice.said.append(f"{Path(path).name} ({ill.pop(path)}) from {candidate.name}")
        if ill:
            without[candidate.name] = _lacks(verdict, ill)
    over = "; ".join(f"{name}: {why}" for name, why in (without | choice.passed_over).items()) or "there is none"
    if files:
        raise BackupError(f"no archive of {holding.name} has a configuration to put back: {over}")
    if ill:
        raise BackupError(f"no archive of {holding.name} has a sound {', '.join(Path(p).name for p in ill)}: {over}")
    return choice


async def _ill_databases(holding: Holding, choice: _Choice, scratch: Path, tell: Tell) -> dict[str, str]:
    """What is wrong with those that are not sound, by path."""
    ill: dict[str, str] = {}
    for database in holding.databases:
        tell(f"reading {database.name} through")
        if problem := await asyncio.to_thread(trouble_in_place, database, scratch):
            ill[str(database)] = problem
        else:
            choice.said.append(f"{database.name} is sound and was left alone")
    return ill


def _lacks(verdict: Verdict, ill: Iterable[str]) -> str:
    """Why an archive has nothing to put in the place of databases that are still ill; empty: none is."""
    manifest = verdict.manifest
    if manifest is None or verdict.problem:
        return verdict.problem
    whys = {path: verdict.databases.get(path) or manifest.left_out.get(path) or "it holds none" for path in ill}
    return ", ".join(f"{Path(path).name}: {why}" for path, why in whys.items())


def _unfit(verdict: Verdict, holding: Holding, wanted: Wanted) -> str:
    """Why an archive's configuration is not put back."""
    manifest = verdict.manifest
    if manifest is None or verdict.problem or verdict.configuration:
        return verdict.problem or verdict.configuration
    if manifest.holding != holding.name:
        return f"it is of {manifest.holding}, not of {holding.name}"
    if manifest.point and not manifest.undone:
        return "it is a restore point"
    if manifest.undone and wanted.archive is None:
        return "it is what an undo found"
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
