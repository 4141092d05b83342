"""SQLite files: copied while they are in use, and opened and read through to tell whether they are sound."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from watchdog.backups.holding import BESIDE_DATABASES
from watchdog.errors import BackupError

_BUSY_SECONDS = 5.0


def copy(database: Path, target: Path) -> None:
    """A consistent copy by SQLite's online backup, whoever writes meanwhile. Raises BackupError: missing or damaged."""
    if not database.is_file():
        raise BackupError(f"{database}: there is no such file")
    try:
        with closing(_opened(database, "mode=ro")) as source, closing(sqlite3.connect(target)) as made:
            source.backup(made)
    except sqlite3.Error as error:
        raise BackupError(f"{database}: {error}") from error
    if problem := trouble(target):
        raise BackupError(f"{database}: {problem}")


def trouble(database: Path) -> str:
    """Why a file that nobody has open is no sound database: read through by `PRAGMA integrity_check`. Empty: it is.
    Changes nothing, not even by recovering what a crash left in the log beside it: that must be gone or empty."""
    if not database.is_file():
        return "there is no such file"
    if database.stat().st_size == 0:
        return "the file is empty"
    try:
        with closing(_opened(database, "immutable=1")) as opened:
            said = [str(row[0]) for row in opened.execute("PRAGMA integrity_check(3)")]
    except sqlite3.Error as error:
        return str(error)
    return "" if said == ["ok"] else " ".join("; ".join(said).split())


def trouble_in_place(database: Path, scratch: Path) -> str:
    """As `trouble`, for a stopped service's database with what stands beside it: looked at in a copy then."""
    if not any(_holds_something(Path(f"{database}{suffix}")) for suffix in ("-wal", "-journal")):
        return trouble(database)
    twin = scratch / "database"
    try:
        for suffix in ("", *BESIDE_DATABASES):
            part = Path(f"{database}{suffix}")
            if part.is_file():
                shutil.copyfile(part, f"{twin}{suffix}")
        with closing(_opened(twin, "mode=rw")) as opened:
            opened.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return trouble(twin)
    except FileNotFoundError:
        return "there is no such file"
    except sqlite3.Error as error:
        return str(error)
    finally:
        for suffix in ("", *BESIDE_DATABASES):
            Path(f"{twin}{suffix}").unlink(missing_ok=True)


def _holds_something(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _opened(database: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(database.absolute()))}?{how}", uri=True, timeout=_BUSY_SECONDS)
