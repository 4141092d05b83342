"""Removes archives that have grown too old, but never the last good ones."""

from __future__ import annotations

from watchdog.backups.holding import Holding
from watchdog.backups.judging import examine
from watchdog.backups.shelf import Archive, Shelf
from watchdog.errors import BackupError


async def prune(shelf: Shelf, holding: Holding, *, now: float, keep: float, at_least: int) -> list[Archive]:
    """Removes what is older than `keep` seconds, except the newest `at_least` that verify, and restore points and what
    undoing them found likewise (the newest `at_least`, whatever is in them). What was removed. Raises BackupError. The
    lock is held."""
    archives = shelf.archives(holding.name)
    old = [archive for archive in archives if archive.made_at < now - keep]
    kept = await _last_good(shelf, holding, archives, at_least) if old else set()
    points = shelf.archives(holding.name, points=True)[at_least:] + shelf.archives(holding.name, found=True)[at_least:]
    gone = [archive for archive in old if archive.name not in kept] + [p for p in points if p.made_at < now - keep]
    try:
        for archive in gone:
            archive.path.unlink()
        _prune_points_of_runs(shelf, now - keep)
    except OSError as error:
        raise BackupError(f"{error.filename}: cannot be removed: {error.strerror}") from error
    return gone


async def _last_good(shelf: Shelf, holding: Holding, archives: list[Archive], at_least: int) -> set[str]:
    good: set[str] = set()
    for archive in archives:
        if len(good) >= at_least:
            break
        with shelf.scratch() as scratch:
            if not (await examine(archive.path, holding.check, scratch)).bad:
                good.add(archive.name)
    return good


def _prune_points_of_runs(shelf: Shelf, before: float) -> None:
    """A run that is over this long will not be undone any more; and a plan goes with its point."""
    for path in shelf.points.glob("*-run-*.tar.gz"):
        if path.stat().st_mtime < before:
            path.unlink()
    for path in shelf.points.glob("*.plan"):
        if not path.with_suffix("").exists():
            path.unlink()
