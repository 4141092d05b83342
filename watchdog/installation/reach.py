"""Opens the directory of a path so that nobody but root, or whoever runs this, decides where that is.

Some directories below which root writes belong to a service's user, who could put a symbolic link in the place of what
stands there, between a look and a deed. So each part of a path is opened from the one before it, and a link is followed
only where nobody else could have made or changed it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from watchdog.errors import InstallationError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OTHERS_MAY_WRITE = 0o022

Made = Callable[[str], None]
"""Is told each directory that had to be made."""


@contextmanager
def parent_of(root: Path, path: str) -> Iterator[tuple[int, str]]:
    """A descriptor of the directory that a path is in, below `root`, and the path's last part. Raises OSError,
    FileNotFoundError among them, and InstallationError for a way that somebody else could choose."""
    directory = open_directory(root, str(PurePosixPath(path).parent))
    try:
        yield directory, PurePosixPath(path).name
    finally:
        os.close(directory)


def open_directory(root: Path, path: str, *, made: Made | None = None) -> int:
    """A descriptor of a directory; with `made` what is missing of it is made, mode 0755. Raises as `parent_of`."""
    now = os.open(root, _DIRECTORY)
    gone = PurePosixPath("/")
    try:
        for part in PurePosixPath(path).parts[1:]:
            gone /= part
            below = _enter(now, part, str(gone), made)
            os.close(now)
            now = below
    except BaseException:
        os.close(now)
        raise
    return now


def read_file(root: Path, path: str) -> bytes:
    """The content of a regular file. Raises as `parent_of`."""
    with parent_of(root, path) as (directory, name):
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        if not _is_link_of_ours(directory, name, path):
            flags |= os.O_NOFOLLOW
        with os.fdopen(os.open(name, flags, dir_fd=directory), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InstallationError(f"{path} is no file")
            return file.read()


def _enter(directory: int, part: str, path: str, made: Made | None) -> int:
    try:
        if _is_link_of_ours(directory, part, path):
            return os.open(part, _DIRECTORY, dir_fd=directory)
        return os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except FileNotFoundError:
        if made is None:
            raise
    os.mkdir(part, 0o755, dir_fd=directory)
    made(path)
    return os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)


def _is_link_of_ours(directory: int, part: str, path: str) -> bool:
    """Whether it is a symbolic link that may be followed; InstallationError for one that may not."""
    found = os.stat(part, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        return False
    around = os.fstat(directory)
    ours = {0, os.geteuid()}
    strangers = {found.st_uid, around.st_uid} - ours
    if not strangers and not around.st_mode & _OTHERS_MAY_WRITE:
        return True
    whose = f"of user {strangers.pop()}" if strangers else "that anybody could have made"
    raise InstallationError(
        f"{path} is a symbolic link {whose}; nothing is read or written through it",
        hint="remove it, and look who made it",
    )
