"""A program with a configuration and a database, and a shelf for its archives."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from watchdog.backups.holding import Holding
from watchdog.backups.shelf import Shelf

JUDGE = """
import os, sys
file = sys.argv[1]
directory = os.path.dirname(file)
if "port:" not in open(file).read():
    sys.exit(f"{file}:1: port: is required and missing")
open(f"{directory}/key").read()
for name in os.listdir(f"{directory}/conf.d"):
    if "bad" in open(f"{directory}/conf.d/{name}").read():
        sys.exit(f"{directory}/conf.d/{name}:1: bad: unknown key")
"""
"""Judges as a real program does: the main file, the fragments beside it, and a secret that no archive has."""


def fill(database: Path, rows: int) -> None:
    """A SQLite file in WAL mode with so many rows."""
    with closing(sqlite3.connect(database)) as opened:
        opened.execute("PRAGMA journal_mode=WAL")
        opened.execute("CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, text TEXT)")
        opened.executemany("INSERT INTO rows (text) VALUES (?)", [("x" * 200,)] * rows)
        opened.commit()


def count(database: Path) -> int:
    """The rows in it."""
    with closing(sqlite3.connect(database)) as opened:
        return int(opened.execute("SELECT count(*) FROM rows").fetchone()[0])


def corrupt(database: Path) -> None:
    """Overwrites pages in its middle, as a failing disk does."""
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 8192)


class Program:
    """`web`: main file, a fragment, a secret, a database."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.main = root / "etc" / "web.yaml"
        self.fragment = root / "etc/conf.d/one.yaml"
        self.key = root / "etc" / "key"
        self.database = root / "rows.sqlite"
        self.fragment.parent.mkdir(parents=True)
        self.main.write_text("port: 8000\n")
        self.main.chmod(0o640)
        self.fragment.write_text("workers: 2\n")
        self.key.write_text("secret\n")
        fill(self.database, 500)
        judge = root / "judge.py"
        judge.write_text(JUDGE)
        self.holding = Holding(
            "web",
            (str(self.main), str(self.fragment.with_name("*.yaml"))),
            (self.database,),
            (sys.executable, "-I", "-S", str(judge), "{file}"),
        )

    def every_byte(self) -> dict[str, tuple[bytes, int, int]]:
        """Content, mode and time of writing by path, of everything below it but what archives are made of."""
        return {
            str(path): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "program")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "backups")
