"""What is archived together and put back together: the configuration files and databases of one program."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from watchdog.backups.manifest import MOST_FILE_BYTES, MOST_MEMBERS, Member
from watchdog.errors import BackupError
from watchdog.system.services.recovery import Recovery

OWN = "proxywatch"
"""The name of the agent's own holding."""
BESIDE_DATABASES = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database, and what must go with it."""


@dataclass(frozen=True, slots=True)
class Holding:
    """`patterns` are absolute, wildcards in the last part only; the first names the main file."""

    name: str
    patterns: tuple[str, ...]
    databases: tuple[Path, ...] = ()
    check: tuple[str, ...] = ()
    recovery: Recovery | None = None

    @property
    def main(self) -> Path:
        """The main configuration file."""
        return Path(self.patterns[0])

    def names(self, path: str) -> bool:
        """Whether a path is one of its configuration files, there or not."""
        return _matches(path, self.patterns)

    def covers(self, path: str) -> bool:
        """Whether anything of it may stand at a path: nothing is ever put back elsewhere."""
        beside = {f"{database}{suffix}" for database in self.databases for suffix in ("", *BESIDE_DATABASES)}
        return path in beside or self.names(path)

    def files(self) -> list[Path]:
        """The configuration files that are there, sorted. Raises OSError."""
        found: dict[Path, None] = {}
        for pattern in self.patterns:
            path = Path(pattern)
            for each in sorted(path.parent.glob(path.name)):
                if stat.S_ISREG(each.stat().st_mode):
                    found[each] = None
        return list(found)

    def glance(self) -> tuple[tuple[str, int, int, int, int], ...]:
        """Differs from an earlier one if a configuration file was changed, made or removed. Raises OSError."""
        return tuple(
            (str(path), now.st_ino, now.st_size, now.st_mtime_ns, now.st_mode)
            for path, now in ((path, path.lstat()) for path in self.files())
        )


def _matches(path: str, patterns: Iterable[str]) -> bool:
    directory, _, name = path.rpartition("/")
    for pattern in patterns:
        where, _, wanted = pattern.rpartition("/")
        if directory == where and fnmatch.fnmatchcase(name, wanted):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Piece:
    """One file to be archived, and what is in it (a path: the file that holds it)."""

    member: Member
    content: bytes | Path


def read_pieces(holding: Holding) -> list[Piece]:
    """The configuration files of now. Raises BackupError, for a symbolic link too: what it leads to would be replaced
    by a restore, or not, and nobody could tell."""
    try:
        files = holding.files()
    except OSError as error:
        raise BackupError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if not files:
        raise BackupError(f"{holding.name}: there is no file {holding.patterns[0]}")
    if len(files) > MOST_MEMBERS:
        raise BackupError(f"{holding.name}: {len(files)} configuration files are more than {MOST_MEMBERS}")
    return [_piece(path) for path in files]


def _piece(path: Path) -> Piece:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            content = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        why = "is a symbolic link: name the file itself" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise BackupError(f"{path}: {why}") from error
    if len(content) > MOST_FILE_BYTES:
        raise BackupError(f"{path}: too large for a configuration file")
    return Piece(member_of(path, "file", found, len(content), hashlib.sha256(content).hexdigest()), content)


def member_of(path: Path, kind: str, found: os.stat_result, size: int, digest: str) -> Member:
    """A file as a member. Raises BackupError for a path that no archive can name."""
    try:
        return Member.model_validate(
            {
                "path": str(path),
                "kind": kind,
                "size": size,
                "sha256": digest,
                "mode": stat.S_IMODE(found.st_mode) & 0o777,
                "uid": found.st_uid,
                "gid": found.st_gid,
                "modified_ns": found.st_mtime_ns,
            }
        )
    except ValueError as error:
        raise BackupError(f"{path}: cannot be archived: {error}") from None


def digests(paths: Iterable[str]) -> dict[str, str | None]:
    """SHA-256 by path; None for what is not there. Raises OSError."""
    found: dict[str, str | None] = {}
    for path in paths:
        try:
            with Path(path).open("rb") as file:
                found[path] = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            found[path] = None
    return found


def in_place(holding: Holding, files: Mapping[str, Member]) -> bool:
    """Whether the configuration in place is these files, word for word, and no other. Raises OSError."""
    now = digests(map(str, holding.files()))
    return now == {path: member.sha256 for path, member in files.items()}
