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
    changed: list[str] = []
    lines: list[str] = []
    for holding in holdings:
        try:
            recent = list(_recent(holding, now))
            before = _last_other(shelf, holding)
            differences = [] if before is None else list(_differences(holding, before))
        except (OSError, BackupError) as error:
            lines.append(f"{holding.name}: could not be compared: {error}")
            continue
        if not recent and not differences:
            continue
        changed.append(holding.name)
        lines += recent or [f"{holding.name}: nothing was written within a day"]
        if before is None:
            lines.append(f"{holding.name}: no archive differs from what is in place")
        else:
            ago = format_duration(max(0.0, now - before.made_at))
            lines += [f"{holding.name}: compared with {before.name}, made {ago} ago:", *differences]
    names = " and ".join(holding.name for holding in holdings)
    first = f"changed: {', '.join(changed)}" if changed else f"no change of the configuration of {names} within a day"
    return "\n".join([first, *lines])


def _recent(holding: Holding, now: float) -> Iterator[str]:
    for path in holding.files():
        found = path.stat()
        age = now - found.st_mtime
        if age <= RECENT_SECONDS:
            yield f"{path}: written {format_duration(max(0.0, age))} ago; it belongs to {_owner(found.st_uid)}"


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _last_other(shelf: Shelf, holding: Holding) -> Archive | None:
    """The newest archive of another configuration than the one in place."""
    for archive in shelf.archives(holding.name)[:_ARCHIVES]:
        try:
            manifest = read_manifest(archive.path)
        except BackupError:
            continue  # a damaged one is told by the probes; the one before it serves here
        if not manifest.minimal and not in_place(holding, manifest.files):
            return archive
    return None


def _differences(holding: Holding, before: Archive) -> Iterator[str]:
    """Masked before they are compared: a block of YAML is told apart from a list only in the whole text."""
    then = read_files(before.path)
    now = {str(path): path for path in holding.files()}
    for path in sorted({*then, *now}):
        old = _lines(then.get(path))
        new = _lines(_content(now[path])) if path in now else None
        if then.get(path) == (_content(now[path]) if path in now else None):
            continue
        if old is None or new is None:
            yield f"{path}: {'made since' if old is None else 'removed since'}"
        difference = list(difflib.unified_diff(old or [], new or [], path, path, lineterm="", n=2))
        if not difference and old is not None and new is not None:
            yield f"{path}: only what is masked here, or blanks, changed"
        yield from (
            difference[2 : _DIFFERENCE_LINES + 2] if old is None or new is None else difference[:_DIFFERENCE_LINES]
        )
        if len(difference) > _DIFFERENCE_LINES:
            yield f"… {len(difference) - _DIFFERENCE_LINES} more lines"


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_FILE_BYTES)


def _lines(content: bytes | None) -> list[str] | None:
    return None if content is None else mask(content[:_FILE_BYTES].decode(errors="replace")).splitlines()
