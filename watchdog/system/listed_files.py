"""Files that may be removed or compressed: regular ones, directly in listed directories, by pattern and age.

One that has another name elsewhere (a hard link) would free nothing, and is left alone. Each directory is opened from
`/` downwards without following a symbolic link, and everything after that goes by its descriptor: whoever may write
beside these files cannot lead us anywhere else.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

from watchdog.system.privileges import denied

MOST_FILES = 500
_PRECIOUS = tuple(map(PurePosixPath, ("/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/sbin", "/sys", "/usr")))


def checked_directory(text: str) -> str:
    """The path as it may be given. Raises ValueError for one that is relative, too near the top, or the system's."""
    path = PurePosixPath(text)
    if not path.is_absolute() or text.startswith("//") or ".." in path.parts:
        raise ValueError(f"expected an absolute path without `..`, not {text!r}")
    if len(path.parts) < 3:
        raise ValueError(f"expected a directory below those at the top, not {text!r}")
    if any(path.is_relative_to(precious) for precious in _PRECIOUS):
        raise ValueError(f"{text!r} belongs to the system")
    return str(path)


def _given(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute():
        return checked_directory(text)
    if ".." in path.parts or len(path.parts) < 2:
        raise ValueError(f"expected a path of at least two parts without `..`, not {text!r}")
    return str(path)


def _pattern(text: str) -> str:
    if "/" in text or "\0" in text:
        raise ValueError(f"expected a pattern of names without `/`, not {text!r}")
    if not any(c.isalnum() for c in text):
        raise ValueError(f"pattern {text!r} would match everything")
    return text


Directory = Annotated[str, AfterValidator(_given)]
"""At least two levels deep and outside of what the system itself consists of. One that is not absolute is below the
directory that the agent works in, as its paths of state are: a checkout's own `var/`, and `/var/` under systemd."""
Pattern = Annotated[str, AfterValidator(_pattern)]
"""A shell pattern of names, with at least one letter or digit."""


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file as it was found. `modified` is in nanoseconds since the epoch, `size` what it takes on the disk."""

    directory: str
    name: str
    inode: int
    size: int
    modified: int

    @property
    def path(self) -> str:
        """For people."""
        return f"{self.directory}/{self.name}"


@contextlib.contextmanager
def opened(directory: str) -> Iterator[int]:
    """A descriptor of the directory. OSError where it is missing or a symbolic link is on the way."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    parts = PurePosixPath(directory).parts
    descriptor = os.open(parts[0], flags)
    try:
        for part in parts[1:]:
            below = os.open(part, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def find(
    directories: Iterable[str], patterns: Iterable[str], *, modified_before: float, keep_newest: int
) -> tuple[list[ListedFile], list[str]]:
    """At most 500 files, oldest first, and what could not be read. In each directory the newest of those that match
    are kept, whatever their age. `modified_before` is in epoch seconds."""
    wanted = tuple(patterns)
    found: list[ListedFile] = []
    troubles: list[str] = []
    for given in directories:
        try:
            directory = checked_directory(str(Path(given).absolute()))
            with opened(directory) as descriptor:
                matching = [*_matching(directory, descriptor, wanted)]
        except (OSError, ValueError) as error:
            troubles.append(denied(given, error) if isinstance(error, OSError) else f"{given}: {error}")
            continue
        matching.sort(key=lambda file: file.modified, reverse=True)
        found += [file for file in matching[keep_newest:] if file.modified < modified_before * 1e9]
    found.sort(key=lambda file: file.modified)
    return found[:MOST_FILES], troubles


def _matching(directory: str, descriptor: int, patterns: tuple[str, ...]) -> Iterator[ListedFile]:
    for name in os.listdir(descriptor):
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                    yield ListedFile(directory, name, found.st_ino, found.st_blocks * 512, found.st_mtime_ns)


def unchanged(file: ListedFile, descriptor: int) -> bool:
    """Whether the file in its opened directory still is the one that was found."""
    try:
        now = os.stat(file.name, dir_fd=descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return False
    same = (now.st_ino, now.st_mtime_ns) == (file.inode, file.modified)
    return same and stat.S_ISREG(now.st_mode) and now.st_nlink == 1


def remove(file: ListedFile) -> bool:
    """Whether it was there as it was found, and is gone now. Raises OSError."""
    with opened(file.directory) as descriptor:
        if not unchanged(file, descriptor):
            return False
        os.unlink(file.name, dir_fd=descriptor)
    return True


def still_there(files: Iterable[ListedFile]) -> int:
    """How many of them are as they were found. Raises OSError for a directory that cannot be opened."""
    count = 0
    for file in files:
        with opened(file.directory) as descriptor:
            count += unchanged(file, descriptor)
    return count
