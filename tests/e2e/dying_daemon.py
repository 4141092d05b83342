"""proxywatch composed with a database that ends the process (SIGKILL) just before or after a chosen kind of write."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from sqlite3 import Cursor
from typing import Any

from watchdog.daemon import Daemon
from watchdog.files import read_files
from watchdog.journal import setup_logging
from watchdog.store.database import Database

WRITES = {
    "intent": "INSERT INTO effects",
    "result": "UPDATE effects SET outcome",
    "attempt": "UPDATE runs SET position",
    "end": "UPDATE runs SET state",
    "page": "INSERT INTO outbox",
}


def dying_database(point: str) -> type[Database]:
    """`before-intent`, `after-result` and so on, for each of WRITES."""
    when, _, name = point.partition("-")
    statement_start = WRITES[name]

    class DyingDatabase(Database):
        armed = False

        def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Cursor:
            if statement.startswith(statement_start):
                if when == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                self.armed = True
            return super().execute(statement, parameters)

        def _commit(self) -> None:
            super()._commit()
            if self.armed:
                os.kill(os.getpid(), signal.SIGKILL)

    return DyingDatabase


async def main(config: Path, point: str) -> None:
    files = read_files(config)
    setup_logging("info", "text")
    await Daemon(files, database=dying_database(point)).run()


if __name__ == "__main__":
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
