"""Whether a directory is meant for a group too, and the modes that what is made in it has then.

Whoever sets up the service says so by the directory's mode: writable for its group, with the set-group-ID bit (2770),
as `llm-proxy.service` has its state directory, so that another user, who is in the group, can put back what is damaged.
In a directory of any other mode everything is for its own user only.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

_SHARED = stat.S_ISGID | stat.S_IRWXG


def share_file(file: Path) -> None:
    """Lets the group of a shared directory read and write a file in it, where that is ours."""
    _share(file, 0o660)


def share_directory(directory: Path) -> None:
    """Lets the group of a shared directory remove what is in a directory below it, where that is ours."""
    _share(directory, 0o770)


def _share(path: Path, mode: int) -> None:
    """One that is not there, or goes meanwhile, is nobody's."""
    if path.parent.stat().st_mode & _SHARED != _SHARED:
        return
    with suppress(FileNotFoundError):
        found = path.lstat()
        if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & 0o777 != mode:
            path.chmod(mode)
