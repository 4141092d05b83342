"""The ledger over a real SQLite file: what comes to it is in it, once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ledger_place import Place, values

from proxy.clock import FakeClock
from proxy.ledger.row import LedgerRefusedError, Row
from proxy.ledger.sqlite import SqliteLedger


async def test_rows_reach_the_file_as_they_were(place: Place) -> None:
    """Each value stands in its column; the file is its owner's alone."""
    ledger = await place.open()
    ledger.record(values(1, error="timeout", status=504, stream=True, cost_usd=None, first_content_ms=3.5))
    await place.until(place.ids)
    connection = sqlite3.connect(place.file)
    connection.row_factory = sqlite3.Row
    (row,) = connection.execute("SELECT * FROM requests").fetchall()
    connection.close()
    assert row["request_id"] == "request-1"
    assert (row["time"], row["status"], row["error"], row["stream"]) == (1_795_000_001.0, 504, "timeout", 1)
    assert (row["cost_usd"], row["first_content_ms"], row["latency_ms"]) == (None, 3.5, 12.5)
    assert stat.S_IMODE(place.file.stat().st_mode) == 0o600


async def test_a_full_batch_does_not_wait_for_the_interval(place: Place) -> None:
    """`batch_rows` rows are written at once; fewer wait, and closing writes them."""
    ledger = await place.open(flush_interval="1h", batch_rows=60)
    for number in range(130):
        ledger.record(values(number))
        if number % 60 == 59:
            await place.until(lambda number=number: len(place.ids()) == number + 1)
    assert len(place.ids()) == 120
    await ledger.close()
    assert place.ids() == [f"request-{number}" for number in range(130)]
    assert list(place.journals.iterdir()) == []


async def test_a_locked_file_delays_rows_and_loses_none(place: Place) -> None:
    """While another program holds the file, rows spool and health says degraded; then each is there once, in order."""
    ledger = await place.open()
    ledger.record(values(0))
    await place.until(place.ids)
    other = sqlite3.connect(place.file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for number in range(1, 200):
        ledger.record(values(number))
    await place.until(lambda: ledger.health()["status"] == "degraded" and ledger.health()["spool_mb"] > 0)
    for number in range(200, 300):
        ledger.record(values(number))
    other.execute("ROLLBACK")
    other.close()
    await place.until(lambda: len(place.ids()) == 300)
    assert place.ids() == [f"request-{number}" for number in range(300)]
    await place.until(lambda: ledger.health() == {"status": "healthy", "kind": "sqlite"} | _at_rest())
    assert list(place.spool.iterdir()) == []
    assert place.counted("ledger_rows_written_total") == {(): 300.0}


def _at_rest() -> dict[str, Any]:
    return {"waiting_rows": 0, "spool_mb": 0.0}


async def test_a_full_disk_is_an_outage_like_any_other(place: Place) -> None:
    """SQLite's word for a full disk spools the rows; with room again they are written."""
    ledger = await place.open()
    ledger.record(values(0))
    await place.until(place.ids)
    sink: Any = ledger._sink
    pages = sink._connection.execute("PRAGMA page_count").fetchone()[0]
    sink._connection.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(1, 400):
        ledger.record(values(number))
    await place.until(lambda: ledger.health()["status"] == "degraded")
    sink._connection.execute("PRAGMA max_page_count = 100000")
    await place.until(lambda: len(place.ids()) == 400)


async def test_what_was_open_at_the_end_is_written_by_the_next(place: Place) -> None:
    """A ledger that closes while its file is locked leaves its rows in the spool, for whoever starts next."""
    first = await place.open()
    first.record(values(0))
    await place.until(place.ids)
    other = sqlite3.connect(place.file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for number in range(1, 20):
        first.record(values(number))
    await first.close()
    other.execute("ROLLBACK")
    other.close()
    assert len(place.ids()) == 1
    await place.open()
    await place.until(lambda: len(place.ids()) == 20)


_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from ledger_place import Place, values
async def main():
    place = Place(Path(sys.argv[1]))
    ledger = await place.open(flush_interval="1h", batch_rows=200)
    for number in range(250):
        ledger.record(values(number))
        if number == 199:
            await place.until(place.ids)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def test_a_killed_worker_loses_no_row(place: Place) -> None:
    """Rows that a worker had taken and not written when it was killed are adopted from its journal, each once."""
    child = subprocess.run(
        [sys.executable, "-c", _KILLED, str(place.path), str(Path(__file__).parent)],
        check=False,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert len(place.ids()) == 200
    (place.path / "metrics" / "w0.metrics").unlink()
    await place.open()
    await place.until(lambda: len(place.ids()) == 250)
    assert place.ids() == [f"request-{number}" for number in range(250)]
    assert not [file for file in place.journals.iterdir() if file.stat().st_size == 0]


async def test_a_torn_line_costs_itself_alone(place: Place) -> None:
    """What a crash left half written is skipped and counted; the lines before it are kept."""
    first = await place.open()
    first.record(values(0))
    await place.until(place.ids)
    other = sqlite3.connect(place.file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    first.record(values(1))
    first.record(values(2))
    await first.close()
    other.execute("ROLLBACK")
    other.close()
    (spooled,) = place.spool.iterdir()
    assert stat.S_IMODE(spooled.stat().st_mode) == 0o600
    spooled.write_bytes(spooled.read_bytes()[:-7])
    await place.open()
    await place.until(lambda: place.ids() == ["request-0", "request-1"])
    await place.until(lambda: place.counted("ledger_rows_lost_total") == {("torn",): 1.0})
    assert list(place.spool.iterdir()) == []


async def test_a_spool_without_end_gives_up_the_oldest(place: Place) -> None:
    """Beyond `spool_max_mb` the oldest rows go, and are counted: written and lost are together what came."""
    blocker = await place.open()
    blocker.record(values(-1))
    await place.until(place.ids)
    other = sqlite3.connect(place.file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    ledger = await place.open(spool_max_mb=0.05, batch_rows=50)
    for number in range(1000):
        ledger.record(values(number))
        if number % 50 == 49:
            await asyncio.sleep(0.025)
    await place.until(lambda: ledger.health()["waiting_rows"] == 0)
    assert sum(file.stat().st_size for file in place.spool.iterdir()) <= 0.05 * 2**20
    other.execute("ROLLBACK")
    other.close()
    await place.until(lambda: place.ids()[-1:] == ["request-999"])
    lost = place.counted("ledger_rows_lost_total")["spool_full",]
    assert 0 < lost < 1000
    await place.until(lambda: len(place.ids()) == 1001 - lost)


async def test_without_a_spool_rows_wait_in_memory(place: Place) -> None:
    """When the spool's directory cannot be used either, rows stay in memory and are written in the end."""
    place.spool.parent.mkdir(parents=True)
    ledger = await place.open()
    ledger.record(values(0))
    await place.until(place.ids)
    place.spool.write_text("this is no directory")
    other = sqlite3.connect(place.file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for number in range(1, 100):
        ledger.record(values(number))
    await place.until(lambda: ledger.health()["status"] == "degraded")
    await asyncio.sleep(0.1)
    assert ledger.health()["waiting_rows"] == 99
    other.execute("ROLLBACK")
    other.close()
    await place.until(lambda: len(place.ids()) == 100)


async def test_a_worker_that_ends_while_nothing_takes_rows_loses_none(place: Place) -> None:
    """Many turns without database and spool leave all rows in the journals, for whoever starts next."""
    place.spool.parent.mkdir(parents=True)
    ledger = await place.open()
    ledger.record(values(0))
    await place.until(place.ids)
    place.spool.write_text("this is no directory")
    other = sqlite3.connect(place.file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for number in range(1, 41):
        ledger.record(values(number))
        await asyncio.sleep(0.025)
    await place.until(lambda: ledger.health()["status"] == "degraded")
    await ledger.close()
    assert not place.counted("ledger_rows_lost_total")
    other.execute("ROLLBACK")
    other.close()
    place.spool.unlink()
    await place.open()
    await place.until(lambda: len(place.ids()) == 41)


async def test_a_row_that_is_refused_costs_itself_alone(place: Place) -> None:
    """A row that the database never takes is counted and left out; those around it are written."""
    ledger = await place.open()
    for number in range(100):
        ledger.record(values(number, status=None if number == 33 else 200))
    await place.until(lambda: len(place.ids()) == 99)
    await place.until(lambda: place.counted("ledger_rows_lost_total") == {("refused",): 1.0})
    assert ledger.health()["status"] == "healthy"


@pytest.mark.parametrize("odd", [10**30, 2**64 - 1], ids=["beyond 64 bits", "beyond 63 bits"])
async def test_absurd_figures_of_a_provider_are_no_obstacle(place: Place, odd: int) -> None:
    """A count that no database can hold becomes none; text that is no text is mended."""
    ledger = await place.open()
    ledger.record(values(0, input_tokens=odd, model_asked="\ud800x"))
    ledger.record(values(1))
    await place.until(lambda: len(place.ids()) == 2)


async def test_a_row_written_twice_is_there_once(place: Place) -> None:
    """The same row again, as after a crash between writing and forgetting, changes nothing."""
    sink = SqliteLedger(place.file)
    rows: list[Row] = [(7, number, *values(number)) for number in range(120)]
    await sink.write(rows)
    await sink.write(rows[60:])
    await sink.write(())
    with pytest.raises(LedgerRefusedError):
        await sink.write([(7, 1000, *values(1, request_id=None))])
    await sink.close()
    assert len(place.ids()) == 120


async def test_a_removed_file_is_made_anew(place: Place) -> None:
    """An operator who removes the file loses what was in it, and nothing that comes later."""
    ledger = await place.open()
    ledger.record(values(0))
    await place.until(place.ids)
    for file in place.file.parent.glob("ledger.sqlite*"):
        file.unlink()
    ledger.record(values(1))
    await place.until(lambda: place.ids() == ["request-1"])


async def test_a_newer_schema_is_left_alone(place: Place) -> None:
    """A file that a later version wrote is not touched; rows wait."""
    place.file.parent.mkdir(parents=True)
    later = sqlite3.connect(place.file)
    later.execute("PRAGMA user_version = 99")
    later.close()
    ledger = await place.open()
    ledger.record(values(0))
    await place.until(lambda: ledger.health()["status"] == "degraded")
    assert place.ids() == []


async def test_rows_are_kept_as_long_as_the_settings_say(place: Place) -> None:
    """A minute after the start, and daily from then on, rows older than `keep` go."""
    clock = FakeClock()
    ledger = await place.open(clock=clock, keep="1d")
    for number, age in enumerate((90_000, 80_000, 10)):
        ledger.record(values(number, time=clock.wall() - age))
    await place.until(lambda: len(place.ids()) == 3)
    clock.advance(61)
    await place.until(lambda: place.ids() == ["request-1", "request-2"])
    clock.advance(86_401)
    await place.until(lambda: place.ids() == [])


async def test_old_rows_are_removed(place: Place) -> None:
    """Rows of requests that began before the given moment go, all others stay."""
    sink = SqliteLedger(place.file)
    await sink.write([(1, number, *values(number)) for number in range(2500)])
    assert await sink.prune(1_795_000_000.0 + 2400) == 2400
    await sink.close()
    assert len(place.ids()) == 100
