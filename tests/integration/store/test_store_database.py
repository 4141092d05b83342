"""The one SQLite file: migrations, transactions, and what happens when the disk will not have it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
from pathlib import Path

import pytest

from watchdog.errors import StoreError
from watchdog.store.database import MIGRATIONS, Database
from watchdog.store.facts import Facts

NEWEST = max(int(file.name.split("_")[0]) for file in MIGRATIONS.glob("[0-9]*.sql"))


def version(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        (number,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(number)


def schema(path: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
    connection.close()
    return rows


def test_an_empty_place_becomes_the_newest_schema(tmp_path: Path) -> None:
    """A file in a directory that is not there yet is made, with every migration, durable settings and foreign keys."""
    path = tmp_path / "state" / "deep" / "proxywatch.db"
    database = Database(path)
    assert version(path) == NEWEST
    assert database.query("PRAGMA journal_mode")[0][0] == "wal"
    assert database.query("PRAGMA synchronous")[0][0] == 1
    assert database.query("PRAGMA foreign_keys")[0][0] == 1
    database.close()


def test_an_older_schema_is_brought_up_and_keeps_its_rows(tmp_path: Path) -> None:
    """A file that stopped after any earlier migration gets the rest, ends in the same schema, and loses nothing."""
    Database(tmp_path / "fresh.db").close()
    files = sorted(MIGRATIONS.glob("[0-9]*.sql"))
    for upto in range(1, len(files)):
        path = tmp_path / f"old-{upto}.db"
        connection = sqlite3.connect(path)
        for number, file in enumerate(files[:upto], start=1):
            connection.executescript(f"{file.read_text()}\nPRAGMA user_version={number};")
        connection.execute("INSERT INTO facts VALUES ('kept', '1')")
        connection.commit()
        connection.close()
        database = Database(path)
        assert Facts(database).get("kept") == 1
        database.close()
        assert version(path) == NEWEST
        assert schema(path) == schema(tmp_path / "fresh.db")


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    """A second opening runs no migration again and finds what was written."""
    path = tmp_path / "proxywatch.db"
    first = Database(path)
    Facts(first).put("name", {"a": [1, None]})
    first.close()
    second = Database(path)
    assert Facts(second).get("name") == {"a": [1, None]}
    second.close()


def test_a_newer_schema_is_refused_with_a_way_out(tmp_path: Path) -> None:
    """A file of a newer proxywatch is not touched: the error says both schemas and what to do."""
    path = tmp_path / "proxywatch.db"
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={NEWEST + 1}")
    connection.close()
    with pytest.raises(StoreError, match=f"schema {NEWEST + 1}, this one knows {NEWEST}") as caught:
        Database(path)
    assert caught.value.permanent
    assert "upgrade" in caught.value.hint
    assert version(path) == NEWEST + 1


def broken_migration(path: Path) -> None:
    """A file that says it has no schema, but has a table that the first migration makes."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE runs (x)")
    connection.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """A migration is one transaction: none of its tables remain when one statement of it fails."""
    path = tmp_path / "proxywatch.db"
    broken_migration(path)
    before = schema(path)
    with pytest.raises(StoreError, match="already exists"):
        Database(path)
    assert schema(path) == before
    assert version(path) == 0


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def torn(path: Path) -> None:
    """The header is whole, the pages are not."""
    Database(path).close()
    content = bytearray(path.read_bytes())
    content[100:] = b"\xa5" * (len(content) - 100)
    path.write_bytes(bytes(content))


def directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("damage", [garbage, torn, directory])
def test_a_file_that_is_no_database_is_refused_with_a_hint(tmp_path: Path, damage: object) -> None:
    """Garbage, torn pages or a directory in its place: StoreError names the file and says what can be done."""
    path = tmp_path / "proxywatch.db"
    assert callable(damage)
    damage(path)
    with pytest.raises(StoreError, match=r"proxywatch\.db: cannot be opened") as caught:
        Database(path)
    assert "moved aside" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_refused_with_a_hint(tmp_path: Path) -> None:
    """A directory that takes no files, for whatever user, or a file where the directory should be."""
    (tmp_path / "file").write_text("")
    for path in (Path("/proc/self/proxywatch.db"), tmp_path / "file" / "proxywatch.db"):
        with pytest.raises(StoreError, match="cannot be opened") as caught:
            Database(path)
        assert "owner" in caught.value.hint


def test_what_a_transaction_did_is_gone_when_it_fails(tmp_path: Path) -> None:
    """An exception, of whatever kind, undoes everything inside, and the next write stands for itself."""
    database = Database(tmp_path / "proxywatch.db")
    facts = Facts(database)

    def fail(error: type[BaseException]) -> None:
        with database.transaction():
            facts.put("a", 1)
            raise error("stop")

    for error in (ValueError, KeyboardInterrupt, StoreError):
        with pytest.raises(error):
            fail(error)
        assert facts.get("a") is None
    facts.put("b", 2)
    database.close()
    again = Database(tmp_path / "proxywatch.db")
    assert (Facts(again).get("a"), Facts(again).get("b")) == (None, 2)
    again.close()


def test_nested_transactions_are_one(tmp_path: Path) -> None:
    """An inner block ends nothing: it is undone with the outer one, and durable only when that ends."""
    path = tmp_path / "proxywatch.db"
    database, other = Database(path), Database(path)
    facts = Facts(database)

    def fail() -> None:
        with database.transaction():
            with database.transaction():
                facts.put("a", 1)
            assert Facts(other).get("a") is None
            raise ValueError("outer")

    with pytest.raises(ValueError, match="outer"):
        fail()
    assert facts.get("a") is None
    with database.transaction(), database.transaction():
        facts.put("a", 2)
    assert Facts(other).get("a") == 2
    database.close()
    other.close()


class Refusing(Database):
    """Its COMMIT fails while `refuses`, as on a disk that fills at the last moment: a deferred constraint does it."""

    refuses = False

    def _commit(self) -> None:
        if self.refuses:
            self.execute("PRAGMA defer_foreign_keys=ON")
            self.execute("INSERT INTO timeline (incident_id, at, kind, text, data) VALUES (999, 0, '', '', '')")
        super()._commit()


def test_a_failed_commit_leaves_no_transaction_open(tmp_path: Path) -> None:
    """When COMMIT itself fails, nothing of it stays, and what is written afterwards is durable."""
    path = tmp_path / "proxywatch.db"
    database, other = Refusing(path), Database(path)
    database.refuses = True
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        Facts(database).put("lost", 1)
    database.refuses = False
    Facts(database).put("kept", 1)
    assert (Facts(other).get("lost"), Facts(other).get("kept")) == (None, 1)
    database.close()
    other.close()


def test_a_full_disk_is_an_error_with_a_hint_and_tears_nothing(tmp_path: Path) -> None:
    """Writing past what the disk takes raises StoreError; what was durable before can still be read and written."""
    path = tmp_path / "proxywatch.db"
    child = os.fork()
    if child == 0:
        # A file size limit of the process is the full disk; only a process of its own can be limited.
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            database = Database(path)
            facts = Facts(database)
            facts.put("before", 1)
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
            try:
                with database.transaction():
                    facts.put("half", 1)
                    facts.put("whole", "x" * 400_000)
            except StoreError as error:
                small = facts.get("before") == 1 and facts.get("half") is None
                status = 0 if "disk full" in error.hint and small else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    database = Database(path)
    assert (Facts(database).get("before"), Facts(database).get("half")) == (1, None)
    assert database.query("PRAGMA integrity_check")[0][0] == "ok"
    database.close()


def test_a_statement_that_fails_is_a_store_error(tmp_path: Path) -> None:
    """A statement that makes no sense, reading or writing, is a StoreError that names the file."""
    database = Database(tmp_path / "proxywatch.db")
    with pytest.raises(StoreError, match=r"proxywatch\.db: cannot be written"):
        database.execute("INSERT INTO nowhere VALUES (1)")
    with pytest.raises(StoreError, match=r"proxywatch\.db: cannot be read"):
        database.query("SELECT * FROM nowhere")
    Facts(database).put("still", "works")
    assert Facts(database).get("still") == "works"
    database.close()


def test_a_migration_that_takes_long_gives_signs_that_it_goes_on(tmp_path: Path) -> None:
    """A store of an earlier release with much history is brought up to date, and whoever waits hears of it; one that
    is up to date already says nothing."""
    path = tmp_path / "proxywatch.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as older:
        for file in sorted(MIGRATIONS.glob("000[123]_*.sql")):
            older.executescript(file.read_text())
        older.execute("PRAGMA user_version=3")
        older.execute("INSERT INTO incidents (id, key, state, opened_at, body) VALUES (1, 'host', 'open', 0, '{}')")
        older.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
            " INSERT INTO timeline (incident_id, at, kind, text, data) SELECT 1, i, 'alert', 'x', '{}' FROM n"
        )
    signs: list[bool] = []
    Database(path, lambda: signs.append(True)).close()
    assert signs
    signs.clear()
    Database(path, lambda: signs.append(True)).close()
    assert not signs
