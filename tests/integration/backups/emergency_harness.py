"""An agent that is killed in the last resort: reads lines `DIRECTORY POINT N` and answers each with an exit status.

Each line forks a process that lives one life over DIRECTORY, or is killed by its own hand at its N-th step (0: never):
when the `intent` is written and nothing is done yet, or when all is done and the `result` is not written yet.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from sqlite3 import Cursor
from typing import Any

from emergency_world import EmergencyWorld, Site, last_resort

from watchdog.store.database import Database

WRITES = {"intent": "INSERT INTO effects", "result": "UPDATE effects SET outcome"}


def dying(point: str, at: int) -> type[Database]:
    """A database whose process ends at the `at`-th such write."""

    class Dying(Database):
        writes = 0
        armed = False

        def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Cursor:
            if statement.startswith(WRITES[point]):
                self.writes += 1
                self.armed = self.writes == at
            return super().execute(statement, parameters)

        def _commit(self) -> None:
            if self.armed and point == "result":
                os.kill(os.getpid(), signal.SIGKILL)
            super()._commit()
            if self.armed:
                os.kill(os.getpid(), signal.SIGKILL)

    return Dying


async def live(directory: Path, point: str, at: int) -> None:
    """One life; what it started goes on."""
    world = EmergencyWorld(Site(directory), last_resort(), dying(point, at))
    await world.live()
    await world.close()


def answer(line: str) -> int:
    """One life in a process of its own; its exit status, negative for a signal."""
    name, point, at = line.split()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            log = os.open(Path(name) / "lives.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            asyncio.run(live(Path(name), point, int(at)))
            status = 0
        except BaseException:  # noqa: BLE001 - whatever ended it belongs in its log
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for request in sys.stdin:
        print(answer(request), flush=True)
