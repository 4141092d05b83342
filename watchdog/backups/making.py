"""Makes archives: of a program's configuration and databases, and restore points of every byte as it is."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from watchdog.backups import archive, databases
from watchdog.backups.holding import BESIDE_DATABASES, Holding, Piece, member_of, read_pieces
from watchdog.backups.judging import Verdict, examine
from watchdog.backups.manifest import FORMAT, MOST_MEMBERS, Manifest, Member
from watchdog.backups.minimal import is_minimal
from watchdog.backups.shelf import Shelf
from watchdog.backups.switching import to_the_end
from watchdog.errors import BackupError
from watchdog.release import __version__

_MOST_NAMED = 5


async def create(
    shelf: Shelf, holding: Holding, *, now: float, reason: str, pieces: Sequence[Piece] | None = None
) -> Verdict:
    """Archives the configuration (or `pieces`, kept from earlier) with the databases of now, then verifies what was
    made; one that does not verify stays, for a person. A database that cannot be copied soundly is left out, with why.
    Raises BackupError. Takes the lock while it writes."""
    async with shelf.lock():
        with shelf.scratch() as scratch:
            path = await to_the_end(lambda: _create(shelf, holding, scratch, now, reason, pieces))
    with shelf.scratch() as scratch:
        return await examine(path, holding.check, scratch)


def _create(
    shelf: Shelf, holding: Holding, scratch: Path, now: float, reason: str, kept: Sequence[Piece] | None
) -> Path:
    pieces = list(read_pieces(holding) if kept is None else kept)
    minimal = any(isinstance(piece.content, bytes) and is_minimal(piece.content) for piece in pieces)
    left_out: dict[str, str] = {}
    for number, database in enumerate(holding.databases):
        twin = scratch / f"copy-{number}"
        try:
            databases.copy(database, twin)
            pieces.append(_piece(database, twin, "database"))
        except BackupError as error:
            if database.exists():
                left_out[str(database)] = str(error).removeprefix(f"{database}: ")
        except OSError as error:
            left_out[str(database)] = f"cannot be read: {error.strerror}"
    target = shelf.place(holding.name, now)
    manifest = _manifest(holding, pieces, now, reason).model_copy(update={"minimal": minimal, "left_out": left_out})
    archive.write(target, manifest, [piece.content for piece in pieces])
    return target


async def create_point(holding: Holding, target: Path, *, now: float, with_databases: bool) -> Manifest:
    """Keeps every byte of the holding as it is, good or bad, so that a restore can be undone; databases only of a
    stopped service. One that is there already stays: it is older than what has been changed since. Raises BackupError.
    The lock is held."""
    return await asyncio.to_thread(_create_point, holding, target, now, with_databases)


def _create_point(holding: Holding, target: Path, now: float, with_databases: bool) -> Manifest:
    if target.exists():
        return archive.read_manifest(target)
    try:
        pieces = read_pieces(holding) if holding.files() else []
    except OSError as error:
        raise BackupError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if with_databases:
        parts = (Path(f"{d}{suffix}") for d in holding.databases for suffix in ("", *BESIDE_DATABASES))
        pieces += [_piece(part, part, "database") for part in parts if part.is_file()]
    bare = holding if with_databases else replace(holding, databases=())
    manifest = _manifest(bare, pieces, now, "restore point").model_copy(update={"point": True})
    archive.write(target, manifest, [piece.content for piece in pieces])
    return manifest


def keep_found(
    shelf: Shelf, holding: Holding, point: str, changed: Sequence[str], parts: Sequence[Path], *, now: float
) -> None:
    """Keeps these files, before the undo of a restore point takes back what was `changed` in some of them. Where a link
    leads is kept in the link's name. Raises BackupError. The lock is held."""
    pieces = [_piece(path, path, "file") for path in holding.files()] + [_piece(p, p, "database") for p in parts]
    if len(pieces) > MOST_MEMBERS:
        raise BackupError(f"{holding.name}: {len(pieces)} files are more than {MOST_MEMBERS}")
    target = shelf.place(holding.name, now, found=True)
    names = ", ".join(Path(path).name for path in changed[:_MOST_NAMED]) + ", …" * (len(changed) > _MOST_NAMED)
    manifest = _manifest(holding, pieces, now, f"what an undo found changed: {names}")
    kept = manifest.model_copy(update={"point": True, "undone": point, "changed": tuple(changed)})
    archive.write(target, kept, [piece.content for piece in pieces])


def _piece(path: Path, content: Path, kind: str) -> Piece:
    """`content` under the name and with the rights of `path`. A database is never read through a symbolic link: who may
    write beside it could have the agent hand over what only the agent can read."""
    if kind == "database" and path.is_symlink():
        raise BackupError(f"{path}: is a symbolic link: name the file itself")
    try:
        found = path.stat()
        with content.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = archive.digest_of(file)
    except OSError as error:
        raise BackupError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return Piece(member_of(path, kind, found, size, digest), content)


def _manifest(holding: Holding, pieces: Iterable[Piece], now: float, reason: str) -> Manifest:
    """The manifest of these pieces."""
    members: tuple[Member, ...] = tuple(piece.member for piece in pieces)
    return Manifest(
        format=FORMAT,
        holding=holding.name,
        made_at=now,
        reason=reason,
        versions={
            "proxywatch": __version__,
            "python": sys.version.split()[0],
            "sqlite": sqlite3.sqlite_version,
        },
        main=str(holding.main),
        patterns=holding.patterns,
        databases=tuple(map(str, holding.databases)),
        members=members,
    )
