"""Puts files in the place of others: first all of them beside their targets, then one rename each.

What is killed in between leaves some files of either kind; doing it again ends it, and a restore point undoes it.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from watchdog.backups.archive import sync_directory
from watchdog.backups.manifest import Member
from watchdog.errors import BackupError

T = TypeVar("T")
_DRAFT = ".proxywatch-new"
_SHARED = stat.S_ISGID | stat.S_IRWXG
"""Of a directory whose group may do there what its owner may: a file in it that changes owners is the group's too."""


@dataclass(frozen=True, slots=True)
class Change:
    """What shall stand at a path: the content of a file or some bytes, with a member's rights; None: nothing."""

    path: str
    content: Path | bytes | None = None
    member: Member | None = None


def switch(changes: Sequence[Change]) -> None:
    """All of them, or none if one cannot be prepared. Rights and time of writing are as the members say, and for root
    the owner too; of anybody else, in a directory that is shared with a group, it is for that group what it was for its
    owner. Raises BackupError. Blocks for as long as copying takes."""
    drafts: list[Path] = []
    try:
        for change in changes:
            if change.content is not None:
                drafts.append(_draft_of(change.path))
                _prepare(change)
        for change in changes:
            if change.content is None:
                Path(change.path).unlink(missing_ok=True)
        for change in changes:
            if change.content is not None:
                _draft_of(change.path).replace(change.path)
        for directory in {Path(change.path).parent for change in changes}:
            with suppress(FileNotFoundError):
                sync_directory(directory)
    except OSError as error:
        raise BackupError(f"{error.filename}: cannot be written: {error.strerror}") from error
    finally:
        for draft in drafts:
            with suppress(OSError):
                draft.unlink()


def sweep(paths: Iterable[str]) -> None:
    """Removes what a killed `switch` left beside these paths."""
    for path in paths:
        with suppress(OSError):
            _draft_of(path).unlink()


def _draft_of(path: str) -> Path:
    target = Path(path)
    return target.with_name(f".{target.name}{_DRAFT}")


def _prepare(change: Change) -> None:
    member, content = change.member, change.content
    assert member is not None
    draft = _draft_of(change.path)
    draft.parent.mkdir(parents=True, exist_ok=True)
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        if isinstance(content, bytes):
            out.write(content)
        elif content is not None:
            with content.open("rb") as source:
                shutil.copyfileobj(source, out, 1024 * 1024)
        out.flush()
        found, mode = os.fstat(out.fileno()), member.mode
        given = (found.st_uid, found.st_gid) == (member.uid, member.gid) or _give(out.fileno(), member)
        if not given and draft.parent.stat().st_mode & _SHARED == _SHARED:
            mode |= (mode & stat.S_IRWXU) >> 3
        os.fchmod(out.fileno(), mode)
        os.utime(out.fileno(), ns=(member.modified_ns, member.modified_ns))
        os.fsync(out.fileno())


def _give(descriptor: int, member: Member) -> bool:
    """To the member's owner; whether that could be. Only root may give a file away: of anybody else it stays the own,
    with the group that the directory gives it, which is how a service of another user can go on reading its
    configuration."""
    try:
        os.fchown(descriptor, member.uid, member.gid)
    except OSError as error:
        # An owner that a user namespace does not know (PrivateUsers=) is an invalid argument there.
        if os.geteuid() == 0 or error.errno not in (errno.EPERM, errno.EINVAL):
            raise
        return False
    return True


def replaced(member: Member, content: bytes, modified_ns: int) -> Member:
    """The member with another content."""
    digest = hashlib.sha256(content).hexdigest()
    return member.model_copy(update={"size": len(content), "sha256": digest, "modified_ns": modified_ns})


async def to_the_end(work: Callable[[], T]) -> T:
    """In a thread; a cancellation waits until it is done, so that nobody acts beside it."""
    task = asyncio.create_task(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
