"""A ledger's place in a test: its files, and what came to be in them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxy import metrics
from proxy.clock import Clock, SystemClock
from proxy.ledger.engine import Sink
from proxy.ledger.row import NAMES
from proxy.ledger.sqlite import SqliteLedger
from proxy.ledger.writer import Ledger
from proxy.metrics import Metrics
from proxy.settings import Settings


def values(number: int, **changed: Any) -> tuple[Any, ...]:
    """A row's values, without the two that name it."""
    row = {
        "time": 1_795_000_000.0 + number,
        "request_id": f"request-{number}",
        "caller": "joe",
        "operation": "chat",
        "model_asked": "small",
        "provider": "alpha",
        "model": "small-2",
        "key_id": "k1",
        "status": 200,
        "error": None,
        "stream": False,
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 0,
        "cost_usd": 0.25,
        "latency_ms": 12.5,
        "first_content_ms": None,
        "attempts": 1,
        "continued": 0,
        "cache": "miss",
    } | changed
    assert list(row) == list(NAMES[2:])
    return tuple(row.values())


class Place:
    """Where ledgers of one test live, and what came of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "state" / "ledger.sqlite"
        self.spool = path / "state" / "ledger-spool"
        self.journals = path / "run" / "ledger"
        self.opened: list[tuple[Ledger, Metrics]] = []

    async def open(self, sink: Sink | None = None, clock: Clock | None = None, **ledger: Any) -> Ledger:
        """A started ledger, over SQLite that waits for nobody unless another sink is given."""
        wanted = {
            "run_dir": str(self.path / "run"),
            "state_dir": str(self.path / "state"),
            "providers": [{"name": "p", "kind": "local", "port": 1}],
            "ledger": {"flush_interval": "20ms"} | ledger,
        }
        measured = Metrics(self.path / "metrics", f"w{len(self.opened)}")
        made = Ledger(
            Settings.model_validate(wanted),
            sink or SqliteLedger(self.file, busy_seconds=0),
            measured,
            clock or SystemClock(),
        )
        await made.start()
        self.opened.append((made, measured))
        return made

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        family = metrics.read(self.path / "metrics").get(name)
        return {labels: cells[0] for labels, cells in family.series.items()} if family else {}

    def ids(self) -> list[str]:
        """The requests in the database, in order of time."""
        if not self.file.exists():
            return []
        connection = sqlite3.connect(self.file)
        try:
            return [row[0] for row in connection.execute("SELECT request_id FROM requests ORDER BY time, sequence")]
        except sqlite3.OperationalError:
            return []
        finally:
            connection.close()

    async def until(self, holds: Callable[[], Any], seconds: float = 30.0) -> Any:
        deadline = asyncio.get_running_loop().time() + seconds
        while not (found := holds()):
            assert asyncio.get_running_loop().time() < deadline, "the condition never held"
            await asyncio.sleep(0.01)
        return found
