"""The ledger in SQLite: one file that all workers write, each its own batches, from a thread of its own.

Commits are not synced one by one (WAL, synchronous=NORMAL): a killed process loses none, a machine without power may
lose the last.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from proxy.group_access import share_file
from proxy.ledger.row import COLUMNS, NAMES, SCHEMA_VERSION, LedgerDownError, LedgerRefusedError, Row

_TOGETHER = 50
"""Rows per statement: each statement lets go of the interpreter's lock once, and has to get it back."""
_PRUNED_AT_ONCE = 1000
_TYPED = ", ".join(f"{column.name} {column.sqlite}" for column in COLUMNS)
_SCHEMA = (
    f"CREATE TABLE IF NOT EXISTS requests ({_TYPED}, PRIMARY KEY (incarnation, sequence)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS requests_time ON requests (time)",
)
_PLACES = f"({', '.join('?' * len(COLUMNS))})"
_INSERT = f"INSERT INTO requests ({', '.join(NAMES)}) VALUES "  # noqa: S608 - names of our own columns
_ONCE = " ON CONFLICT (incarnation, sequence) DO NOTHING"
_INSERT_ONE = _INSERT + _PLACES + _ONCE
_INSERT_MANY = _INSERT + ", ".join([_PLACES] * _TOGETHER) + _ONCE
_PRUNE = f"""
DELETE FROM requests WHERE (incarnation, sequence) IN (
  SELECT incarnation, sequence FROM requests WHERE time < ? LIMIT {_PRUNED_AT_ONCE})
"""  # noqa: S608

T = TypeVar("T")


class SqliteLedger:
    """Writes from one thread; the file (mode 0600) is made, and made anew if it was removed."""

    def __init__(self, file: Path, busy_seconds: float = 5.0) -> None:
        """`busy_seconds`: how long another writer is waited for."""
        self._file = file
        self._busy_seconds = busy_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger-sqlite")
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    async def write(self, rows: Sequence[Row]) -> None:
        """Writes all of them or none. LedgerDownError, LedgerRefusedError."""
        await self._do(lambda: self._write(rows))

    async def prune(self, before: float) -> int:
        """Removes the rows of requests that began before that moment (epoch seconds); returns how many.

        In small steps, so that other writers get their turns. LedgerDownError.
        """
        total = 0
        while removed := await self._do(lambda: self._prune(before)):
            total += removed
        return total

    async def close(self) -> None:
        """Closes the file, when the thread is done with it."""
        loop = asyncio.get_running_loop()
        closing = loop.run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown(wait=False)
        await closing

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, OverflowError, UnicodeError) as error:
            raise LedgerRefusedError(f"{self._file}: {error}") from error
        except (sqlite3.Error, OSError) as error:
            raise LedgerDownError(f"{self._file}: {error}") from error

    def _write(self, rows: Sequence[Row]) -> None:
        connection = self._connected()
        whole = len(rows) - len(rows) % _TOGETHER
        try:
            connection.execute("BEGIN IMMEDIATE")
            for begin in range(0, whole, _TOGETHER):
                connection.execute(_INSERT_MANY, [value for row in rows[begin : begin + _TOGETHER] for value in row])
            connection.executemany(_INSERT_ONE, rows[whole:])
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _prune(self, before: float) -> int:
        return self._connected().execute(_PRUNE, (before,)).rowcount

    def _connected(self) -> sqlite3.Connection:
        if self._connection is not None and not _is_file(self._file, self._inode):
            self._disconnect()
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._inode = os.fstat(descriptor).st_ino
        os.close(descriptor)
        # SQLite gives what it makes beside a database the same mode; those of before a crash are there already.
        for suffix in ("", "-wal", "-shm"):
            share_file(self._file.with_name(self._file.name + suffix))
        connection = sqlite3.connect(
            self._file, timeout=self._busy_seconds, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            _check_version(connection)
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _check_version(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise sqlite3.OperationalError(f"it has schema {version}, this version knows {SCHEMA_VERSION}")


def _is_file(path: Path, inode: int) -> bool:
    try:
        return path.stat().st_ino == inode
    except FileNotFoundError:
        return False
