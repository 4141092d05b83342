"""Evidence of what people changed: configuration files that differ from what was archived, and how."""

from __future__ import annotations

import asyncio
import difflib
import pwd
from collections.abc import Iterator
from pathlib import Path

from watchdog.actions import ActionContext
from watchdog.backups.archive import read_files, read_manifest
from watchdog.backups.holding import OWN, Holding, in_place
from watchdog.backups.shelf import Archive, Shelf
from watchdog.core.masking import mask
from watchdog.errors import BackupError
from watchdog.units import format_duration

RECENT_SECONDS = 86_400.0
_ARCHIVES = 10
"""So many of the newest are looked at for one that differs from what is in place."""
_RECENT_FILES = 5
_DIFFERENCE_LINES = 60
"""Of one file."""
_FILE_BYTES = 256 * 1024


async def config_changes(context: ActionContext) -> str:
    """Which configuration files of the service and of proxywatch changed within a day, when, whose they are, and the
    difference from the newest archive that differs, secrets masked. Who changed them no file tells."""
    vault = context.vault
    if vault is None:
        return "nothing is archived here, so there is nothing to compare with"
    service = context.target.labels.get("service") or context.labels.get("service", "")
    holdings = [vault.holdings[name] for name in dict.fromkeys((service, OWN)) if name in vault.holdings]
    return await asyncio.to_thread(_told, vault.shelf, holdings, context.clock.now())


def _told(shelf: Shelf, holdings: list[Holding], now: float) -> str:
    told = []
    for holding in holdings:
        try:
            told.append(_of(shelf, holding, now))
        except (OSError, BackupError) as error:
            told.append([f"{holding.name}: could not be compared: {error}"])
    # What has changed is what somebody looks for, so it stands before what has not.
    return "\n".join(line for lines in sorted(told, key=lambda lines: len(lines) == 1) for line in lines)


def _of(shelf: Shelf, holding: Holding, now: float) -> list[str]:
    archives = shelf.archives(holding.name)
    if not archives:
        return [f"{holding.name}: nothing is archived yet to compare with", *_recent(holding, now)]
    before = _last_other(archives, holding)
    if before is None:
        since = archives[:_ARCHIVES][-1]
        return [f"{holding.name}: unchanged since its archive of {_ago(since.made_at, now)}: {since.name}"]
    said = f"{holding.name}: differs from its archive of {_ago(before.made_at, now)}: {before.name}"
    return [said, *_differences(holding, before, now)]


def _recent(holding: Holding, now: float) -> Iterator[str]:
    """The files that were written within a day, the newest first."""
    found = [(path.stat().st_mtime, path) for path in holding.files()]
    recent = sorted((at, path) for at, path in found if now - at <= RECENT_SECONDS)[::-1]
    yield from (f"{path}, {_written(path, now)}" for _at, path in recent[:_RECENT_FILES])
    if len(recent) > _RECENT_FILES:
        yield f"and {len(recent) - _RECENT_FILES} more files within a day"


def _written(path: Path, now: float) -> str:
    found = path.stat()
    return f"written {_ago(found.st_mtime, now)}, of {_owner(found.st_uid)}"


def _ago(at: float, now: float) -> str:
    return f"{format_duration(max(0.0, now - at))} ago"


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _last_other(archives: list[Archive], holding: Holding) -> Archive | None:
    """The newest archive of another configuration than the one in place."""
    for archive in archives[:_ARCHIVES]:
        try:
            manifest = read_manifest(archive.path)
        except BackupError:
            continue  # a damaged one is told by the probes; the one before it serves here
        if not manifest.minimal and not in_place(holding, manifest.files):
            return archive
    return None


def _differences(holding: Holding, before: Archive, now: float) -> Iterator[str]:
    """Masked before they are compared: a block of YAML is told apart from a list only in the whole text."""
    then = read_files(before.path)
    there = {str(path): path for path in holding.files()}
    for path in sorted({*then, *there}):
        if path not in there:
            yield f"{path}: removed"
            continue
        content, written = _content(there[path]), _written(there[path], now)
        if path not in then:
            yield f"{path}: new, {written}"
        elif then[path] != content:
            found = difflib.unified_diff(_lines(then[path]), _lines(content), lineterm="", n=0)
            lines = [line for line in [*found][2:] if not line.startswith("@@")]
            yield f"{path}, {written}:" if lines else f"{path}, {written}: only what is masked here, or blanks"
            yield from lines[:_DIFFERENCE_LINES]
            if len(lines) > _DIFFERENCE_LINES:
                yield f"… {len(lines) - _DIFFERENCE_LINES} more lines"


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_FILE_BYTES)


def _lines(content: bytes) -> list[str]:
    return mask(content[:_FILE_BYTES].decode(errors="replace")).splitlines()
