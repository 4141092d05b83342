"""The ledger over a real PostgreSQL: the same promises as over SQLite, and a server that dies or hangs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest
from ledger_place import Place, values
from postgres_server import PostgresServer

from proxy.ledger.postgres import PostgresLedger
from proxy.ledger.row import LedgerDownError, Row


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """The server without our tables."""
    postgres.query("DROP TABLE IF EXISTS llm_proxy_requests, llm_proxy_ledger")
    yield postgres
    if postgres.process is None:
        postgres.start()


def count(database: PostgresServer) -> int:
    answer = database.query("SELECT count(*), count(DISTINCT request_id) FROM llm_proxy_requests")
    if not answer:
        return 0
    rows, requests = answer[0].split("|")
    assert rows == requests
    return int(rows)


async def test_rows_reach_the_table_as_they_were(place: Place, database: PostgresServer) -> None:
    """The table is made when it is missing, by several ledgers at once; each value stands in its column."""
    ledgers = [await place.open(PostgresLedger(database.dsn)) for _ in range(3)]
    for number, ledger in enumerate(ledgers):
        ledger.record(values(number, error="timeout", status=504, stream=True, cost_usd=None))
    await place.until(lambda: count(database) == 3)
    selected = "extract(epoch FROM time), status, error, stream, cost_usd IS NULL, latency_ms, input_tokens"
    answer = database.query(f"SELECT {selected} FROM llm_proxy_requests WHERE request_id = 'request-1'")
    assert answer == ["1795000001.000000|504|timeout|t|t|12.5|10"]
    assert database.query("SELECT version FROM llm_proxy_ledger") == ["1"]
    await asyncio.gather(*(ledger.close() for ledger in ledgers))


async def test_rows_are_written_once_and_removed_when_old(place: Place, database: PostgresServer) -> None:
    """The same rows again change nothing; old ones go."""
    sink = PostgresLedger(database.dsn)
    rows: list[Row] = [(7, number, *values(number)) for number in range(300)]
    await sink.write(rows)
    await sink.write(rows[100:])
    await sink.write(())
    assert count(database) == 300
    assert await sink.prune(1_795_000_000.0 + 290) == 290
    await sink.close()
    assert count(database) == 10


async def test_a_row_that_postgres_refuses_costs_itself_alone(place: Place, database: PostgresServer) -> None:
    """A value that its column cannot hold is counted and left out; those around it are written."""
    ledger = await place.open(PostgresLedger(database.dsn))
    for number in range(50):
        ledger.record(values(number, request_id="nul \0" if number == 33 else f"request-{number}"))
        ledger.record(values(100 + number, status=2**40 if number == 3 else 200))
    await place.until(lambda: count(database) == 98)
    await place.until(lambda: place.counted("ledger_rows_lost_total") == {("refused",): 2.0})


async def test_a_killed_server_delays_rows_and_loses_none(place: Place, database: PostgresServer) -> None:
    """Rows of an outage come when the server is back, each once; meanwhile health says degraded."""
    ledger = await place.open(PostgresLedger(database.dsn), batch_rows=20)
    for number in range(100):
        ledger.record(values(number))
    await place.until(lambda: count(database) == 100)
    database.stop()
    for number in range(100, 400):
        ledger.record(values(number))
        await asyncio.sleep(0.001)
    await place.until(lambda: ledger.health()["status"] == "degraded" and ledger.health()["waiting_rows"] == 0)
    database.start()
    for number in range(400, 500):
        ledger.record(values(number))
    await place.until(lambda: count(database) == 500)
    await place.until(lambda: ledger.health()["status"] == "healthy")
    assert place.counted("ledger_rows_lost_total") == {}


async def test_a_server_that_hangs_is_given_up(place: Place, database: PostgresServer) -> None:
    """A server that takes the connection and never answers delays its rows, and neither recording nor closing."""
    ledger = await place.open(PostgresLedger(database.dsn, patience_seconds=0.5))
    ledger.record(values(0))
    await place.until(lambda: count(database) == 1)
    database.signal_all(signal.SIGSTOP)
    try:
        for number in range(1, 100):
            ledger.record(values(number))
        await place.until(lambda: ledger.health()["spool_mb"] > 0)
        assert ledger.health()["status"] == "degraded"
        await asyncio.wait_for(ledger.close(), 45)
    finally:
        database.signal_all(signal.SIGCONT)
    await place.open(PostgresLedger(database.dsn))
    await place.until(lambda: count(database) == 100)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://owner:pa55word@127.0.0.1:1/postgres",
        "mysql://owner:pa55word@h/d",
        "postgresql://owner:pa55word@h:port/d",
    ],
    ids=["nobody", "other", "nonsense"],
)
async def test_a_failure_does_not_tell_the_password(dsn: str) -> None:
    """What is said of an address that does not work has no password in it."""
    sink = PostgresLedger(dsn)
    with pytest.raises(LedgerDownError) as caught:
        await sink.write(())
    assert "pa55word" not in str(caught.value)
