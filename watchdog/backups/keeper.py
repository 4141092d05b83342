"""Keeps the archives up to date: a configuration that was accepted is archived before another one can be, everything
once a day, and what has grown too old is removed.

A changed configuration is judged as soon as it is seen. `proxywatch_configuration_good{service}` says whether the files
in place would be accepted, `proxywatch_configuration_minimal` whether a repair has made them smaller,
`proxywatch_configuration_changed_timestamp_seconds` when they changed last, and
`proxywatch_backup_newest_timestamp_seconds` and `proxywatch_backup_good` how the newest archive is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from watchdog.backups import archive
from watchdog.backups.holding import Holding, Piece, read_pieces
from watchdog.backups.judging import judge_pieces
from watchdog.backups.making import create
from watchdog.backups.minimal import is_minimal
from watchdog.backups.pruning import prune
from watchdog.backups.vault import Vault
from watchdog.clock import Clock
from watchdog.core.model import Sample, labels_of
from watchdog.errors import BackupError

log = logging.getLogger("proxywatch.backup")


@dataclass(slots=True)
class _Kept:
    """What is known of one holding. `pieces` are those that were accepted last."""

    glance: tuple[Any, ...] = ()
    pieces: tuple[Piece, ...] = ()
    good: bool | None = None
    changed_at: float | None = None
    minimal: bool = False
    archive_good: bool | None = None
    trouble: str = ""


class Keeper:
    """Of one vault. One thing at a time."""

    def __init__(self, vault: Vault, clock: Clock, *, keep: float, at_least: int) -> None:
        """`keep`: seconds; `at_least`: how many archives that verify stay however old they are."""
        self.vault = vault
        self.keep = keep
        self.at_least = at_least
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._busy = asyncio.Lock()

    async def look(self) -> None:
        """Judges each configuration that is new or has changed, and archives it if it is good."""
        async with self._busy:
            for holding in tuple(self.vault.holdings.values()):
                kept = self._kept.setdefault(holding.name, _Kept())
                try:
                    await self._look_at(holding, kept)
                except BackupError as error:
                    self._tell(holding, kept, error)
                except OSError as error:
                    self._tell(holding, kept, BackupError(f"{error.filename}: {error.strerror}"))
            for name in [name for name in self._kept if name not in self.vault.holdings]:
                del self._kept[name]

    async def remember(self, name: str) -> None:
        """What is in place now was accepted by somebody who can tell. What cannot be read is not remembered."""
        holding = self.vault.holdings.get(name)
        if holding is not None:
            kept = self._kept.setdefault(name, _Kept())
            try:
                kept.pieces = tuple(await asyncio.to_thread(read_pieces, holding))
            except BackupError as error:
                self._tell(holding, kept, error)

    async def before_change(self, name: str) -> None:
        """The configuration accepted last is archived before another takes its place, as it was: on the disk it may
        be gone already. Raises BackupError."""
        async with self._busy:
            kept, holding = self._kept.get(name), self.vault.holdings.get(name)
            if kept is not None and holding is not None and kept.pieces:
                await self._ensure(holding, kept, kept.pieces, "before a change of configuration")

    async def daily(self) -> None:
        """An archive of everything, and nothing that is too old."""
        async with self._busy:
            for holding in tuple(self.vault.holdings.values()):
                kept = self._kept.setdefault(holding.name, _Kept())
                try:
                    await self._archive(holding, kept, None, "daily")
                    async with self.vault.shelf.lock():
                        gone = await prune(
                            self.vault.shelf, holding, now=self._clock.wall(), keep=self.keep, at_least=self.at_least
                        )
                    if gone:
                        log.info("%s: %d old archives removed", holding.name, len(gone))
                except BackupError as error:
                    self._tell(holding, kept, error)

    def samples(self) -> list[Sample]:
        """As the module says; what is not known is absent."""
        found: list[Sample] = []
        for name in tuple(self.vault.holdings):
            kept = self._kept.get(name, _Kept())
            labels = labels_of(service=name)
            if kept.good is not None:
                found.append(Sample("proxywatch_configuration_good", float(kept.good), labels))
                found.append(Sample("proxywatch_configuration_minimal", float(kept.minimal), labels))
            if kept.changed_at is not None:
                found.append(Sample("proxywatch_configuration_changed_timestamp_seconds", kept.changed_at, labels))
            if kept.archive_good is not None:
                found.append(Sample("proxywatch_backup_good", float(kept.archive_good), labels))
            newest = next(iter(self.vault.shelf.archives(name)), None)
            if newest is not None:
                found.append(Sample("proxywatch_backup_newest_timestamp_seconds", newest.made_at, labels))
        return found

    async def _look_at(self, holding: Holding, kept: _Kept) -> None:
        glance = await asyncio.to_thread(holding.glance)
        if not glance or glance == kept.glance:
            return
        pieces = tuple(await asyncio.to_thread(read_pieces, holding))
        problem = "" if _same(pieces, kept.pieces) else await self._judged(holding, pieces)
        newest = max(piece.member.modified_ns for piece in pieces) / 1e9
        kept.changed_at = self._clock.now() if kept.glance else newest
        why = "accepted after a change" if kept.glance else "accepted at the start"
        kept.good, kept.glance = not problem, glance
        if problem:
            log.warning("%s: the configuration in place would be refused: %s", holding.name, problem)
            return
        kept.minimal = any(isinstance(piece.content, bytes) and is_minimal(piece.content) for piece in pieces)
        if kept.minimal:
            return
        kept.pieces = pieces
        await self._ensure(holding, kept, pieces, why)

    async def _judged(self, holding: Holding, pieces: Sequence[Piece]) -> str:
        with self.vault.shelf.scratch() as scratch:
            return await judge_pieces(holding, pieces, scratch)

    async def _ensure(self, holding: Holding, kept: _Kept, pieces: Sequence[Piece], reason: str) -> None:
        """An archive of these pieces, unless the newest one holds the same."""
        if not await asyncio.to_thread(self._has, holding, pieces):
            await self._archive(holding, kept, pieces, reason)

    def _has(self, holding: Holding, pieces: Sequence[Piece]) -> bool:
        newest = next(iter(self.vault.shelf.archives(holding.name)), None)
        if newest is None:
            return False
        try:
            manifest = archive.read_manifest(newest.path)
        except BackupError:
            return False
        return not manifest.minimal and _content(pieces) == {p: m.sha256 for p, m in manifest.files.items()}

    async def _archive(self, holding: Holding, kept: _Kept, pieces: Sequence[Piece] | None, reason: str) -> None:
        verdict = await create(self.vault.shelf, holding, now=self._clock.wall(), reason=reason, pieces=pieces)
        kept.archive_good, kept.trouble = not verdict.bad, ""
        left_out = verdict.manifest.left_out if verdict.manifest else {}
        for database, why in left_out.items():
            kept.archive_good = False
            log.warning("%s: %s could not be archived: %s", holding.name, database, why)
        if verdict.bad:
            log.warning("%s: archive %s does not verify: %s", holding.name, verdict.name, verdict.bad)
        else:
            log.info("%s: archived as %s (%s)", holding.name, verdict.name, reason)

    def _tell(self, holding: Holding, kept: _Kept, error: BackupError) -> None:
        """Each trouble once, as long as it is the same."""
        kept.archive_good = False
        if kept.trouble != str(error):
            kept.trouble = str(error)
            log.warning("%s: %s", holding.name, error)


def _content(pieces: Sequence[Piece]) -> dict[str, str]:
    return {piece.member.path: piece.member.sha256 for piece in pieces}


def _same(pieces: Sequence[Piece], others: Sequence[Piece]) -> bool:
    """Word for word, so that the judgement of one is that of the other."""
    return bool(others) and _content(pieces) == _content(others)
