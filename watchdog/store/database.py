"""One SQLite file: opening, migrating, transactions. Everything that must survive `kill -9` goes through here."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from watchdog.errors import StoreError

MIGRATIONS = Path(__file__).parent / "migrations"
HINT = "check owner, free space and integrity; the file can be moved aside, which forgets all history"
MIGRATION_STEPS = 100_000
"""So many of SQLite's instructions, a few milliseconds, lie between two signs that a migration goes on."""

Stamp = tuple[int, int]


class Database:
    """A connection used from the event loop's thread only.

    Statements take some tens of microseconds, so they run in line: a decision and its record cannot be torn apart by
    another task. Whatever is committed survives `kill -9`; a power cut takes back the last moments, whole transactions
    from the end, unless they were flushed: what must not be forgotten once something is begun asks for `flush`.
    """

    def __init__(self, path: Path, advanced: Callable[[], None] | None = None) -> None:
        """Opens and migrates `path`, making its directory. Raises StoreError with a hint if that cannot be. `advanced`
        is called every now and then while a migration that takes long goes on."""
        self.path = path
        self._rollbacks = 0
        self._flush_wanted = False
        self._touched: dict[str, int] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._connection = sqlite3.connect(path, timeout=5.0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path}: cannot be opened: {error}", hint=HINT) from error
        try:
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("PRAGMA foreign_keys=ON")
            self._connection.set_progress_handler(advanced, MIGRATION_STEPS)
            self._migrate()
            self._connection.set_progress_handler(None, 0)
        except (sqlite3.Error, StoreError) as error:
            self._connection.close()
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{path}: cannot be opened: {error}", hint=HINT) from error

    def close(self) -> None:
        """Closes the connection; the file is complete at any time anyway."""
        self._connection.close()

    def query(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[sqlite3.Row]:
        """All rows of a SELECT. Raises StoreError."""
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: cannot be read: {error}", hint=HINT) from error

    def flush(self) -> None:
        """What is committed by now, or by the end of the transaction that is open, survives a power cut too. Raises
        StoreError, also from the transaction's end. Some milliseconds."""
        self._flush_wanted = True
        if not self._connection.in_transaction:
            self._flush()

    def _flush(self) -> None:
        self._flush_wanted = False
        try:
            # The log is written in order, so its last transaction is safe only with all that came before.
            descriptor = os.open(f"{self.path}-wal", os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {error}", hint="is the disk full?") from error

    def stamp(self, topic: str) -> Stamp:
        """Another one after every `touch` of the topic and every rollback: what was read under the same stamp may be
        kept instead of being read again."""
        return self._rollbacks, self._touched.get(topic, 0)

    def touch(self, topic: str) -> None:
        """Something was written that this topic's readers may have kept."""
        self._touched[topic] = self._touched.get(topic, 0) + 1

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """One writing statement, a transaction of its own unless one is open. Raises StoreError."""
        if self._connection.in_transaction:
            return self._run(statement, parameters)
        with self.transaction():
            return self._run(statement, parameters)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside become durable together or not at all; nested use joins the outer transaction."""
        if self._connection.in_transaction:
            yield
            return
        self._run("BEGIN IMMEDIATE", ())
        try:
            yield
            self._commit()
            if self._flush_wanted:
                self._flush()
        except BaseException:
            # Also after a failed COMMIT: a transaction left open would swallow everything written from then on.
            self._connection.rollback()
            self._rollbacks += 1
            self._flush_wanted = False
            raise

    def _commit(self) -> None:
        self._run("COMMIT", ())

    def _run(self, statement: str, parameters: Sequence[Any]) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, parameters)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: cannot be written: {error}", hint="is the disk full?") from error

    def _migrate(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        files = sorted(MIGRATIONS.glob("[0-9]*.sql"))
        newest = int(files[-1].name.split("_")[0])
        if version > newest:
            raise StoreError(
                f"{self.path}: written by a newer proxywatch (schema {version}, this one knows {newest})",
                hint="upgrade proxywatch, or restore the database from before the upgrade",
                permanent=True,
            )
        for file in files:
            number = int(file.name.split("_")[0])
            if number > version:
                script = f"BEGIN IMMEDIATE;\n{file.read_text()}\nPRAGMA user_version={number};\nCOMMIT;"
                self._connection.executescript(script)
