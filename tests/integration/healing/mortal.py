"""An agent's database that can end with its agent at any write, and that fails as a full disk or a bad one does."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from virtual_time import Time

from watchdog.errors import StoreError
from watchdog.store.database import Database


class Killed(BaseException):
    """The agent is no more; nothing that it does from now on leaves a trace."""


class Fate:
    """What will become of the agent and of its disk. It outlives both."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.commits_left: int | None = None
        """The agent dies at the commit at which this comes to 0."""
        self.before = False
        """It dies before that commit rather than after it."""
        self.full_until = 0.0
        self.unreadable_until = 0.0
        self.open: list[Database] = []

    def close(self) -> None:
        """Closes whatever an agent of the past has left open."""
        for database in self.open:
            database.close()
        self.open.clear()


class MortalDatabase(Database):
    """Its commits last as long as the test does: there is no power that could fail."""

    def __init__(self, fate: Fate, path: Path) -> None:
        self.dead = False
        self._fate = fate
        super().__init__(path)
        fate.open.append(self)
        self._connection.execute("PRAGMA synchronous=OFF")

    def query(self, statement: str, parameters: Any = ()) -> list[sqlite3.Row]:
        self._require_life()
        if self._fate.time.uptime < self._fate.unreadable_until:
            raise StoreError("the disk answers with errors")
        return super().query(statement, parameters)

    def _run(self, statement: str, parameters: Sequence[Any]) -> sqlite3.Cursor:
        self._require_life()
        return super()._run(statement, parameters)

    def _commit(self) -> None:
        self._require_life()
        fate = self._fate
        if fate.time.uptime < max(fate.full_until, fate.unreadable_until):
            raise StoreError("the disk is full")
        if fate.commits_left is not None:
            fate.commits_left -= 1
        dies = fate.commits_left == 0
        if not (dies and fate.before):
            super()._commit()
        if dies:
            fate.commits_left = None
            self.dead = True
            raise Killed

    def _require_life(self) -> None:
        if self.dead:
            raise Killed
