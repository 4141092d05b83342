"""The ledger in PostgreSQL, through asyncpg (the extra `postgres`), which is imported only when it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, TypeVar

from proxy.ledger.row import COLUMNS, NAMES, SCHEMA_VERSION, LedgerDownError, LedgerRefusedError, Row

if TYPE_CHECKING:
    import asyncpg

_CLOSE_SECONDS = 1.0
_LOCK = 0x6C6C6D70
"""Any number; workers that start together take turns in making the table."""
_PRUNED_AT_ONCE = 5000
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS llm_proxy_requests (
  {", ".join(f"{column.name} {column.postgres}" for column in COLUMNS)}, PRIMARY KEY (incarnation, sequence));
CREATE INDEX IF NOT EXISTS llm_proxy_requests_time ON llm_proxy_requests (time);
CREATE TABLE IF NOT EXISTS llm_proxy_ledger (version integer NOT NULL);
INSERT INTO llm_proxy_ledger SELECT {SCHEMA_VERSION} WHERE NOT EXISTS (SELECT 1 FROM llm_proxy_ledger);
"""  # noqa: S608 - names of our own columns
_ARRAYS = ", ".join(
    f"${number}::{'double precision' if column.name == 'time' else column.postgres}[]"
    for number, column in enumerate(COLUMNS, start=1)
)
_SELECTED = ", ".join("to_timestamp(time)" if name == "time" else name for name in NAMES)
_INSERT = (
    f"INSERT INTO llm_proxy_requests ({', '.join(NAMES)})"  # noqa: S608
    f" SELECT {_SELECTED} FROM unnest({_ARRAYS}) AS given({', '.join(NAMES)})"
    " ON CONFLICT (incarnation, sequence) DO NOTHING"
)
_PRUNE = f"""
DELETE FROM llm_proxy_requests WHERE (incarnation, sequence) IN (
  SELECT incarnation, sequence FROM llm_proxy_requests
  WHERE time < to_timestamp($1::double precision) LIMIT {_PRUNED_AT_ONCE})
"""  # noqa: S608
_BOOLEAN = NAMES.index("stream")

T = TypeVar("T")


class PostgresLedger:
    """One connection, made anew after each failure."""

    def __init__(self, dsn: str, patience_seconds: float = 5.0) -> None:
        """`patience_seconds` for a connection, and for a statement. asyncpg is imported here, for that is no thing to
        do while requests wait."""
        import asyncpg  # noqa: F401

        self._dsn = dsn
        self._patience_seconds = patience_seconds
        self._connection: asyncpg.Connection | None = None

    async def write(self, rows: Sequence[Row]) -> None:
        """Writes all of them or none. LedgerDownError, LedgerRefusedError."""
        arrays = [list(values) for values in zip(*rows, strict=True)] or [[] for _ in COLUMNS]
        arrays[_BOOLEAN] = [bool(value) for value in arrays[_BOOLEAN]]
        await self._do(self._execute(_INSERT, *arrays))

    async def prune(self, before: float) -> int:
        """Removes the rows of requests that began before that moment (epoch seconds); returns how many.

        LedgerDownError.
        """
        total = 0
        while removed := int((await self._do(self._execute(_PRUNE, before))).rpartition(" ")[2]):
            total += removed
        return total

    async def close(self) -> None:
        """Closes the connection, politely if that is quick."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        overdue = asyncio.get_running_loop().call_later(_CLOSE_SECONDS, connection.terminate)
        try:
            await self._do(connection.close())
        except LedgerDownError:
            connection.terminate()
        finally:
            overdue.cancel()

    async def _execute(self, statement: str, *arguments: object) -> str:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
        connection = self._connection
        # Ended from outside: a cancelled statement would make asyncpg ask the server, which may be the one that hangs.
        overdue = asyncio.get_running_loop().call_later(self._patience_seconds, connection.terminate)
        try:
            answer: str = await connection.execute(statement, *arguments)
        finally:
            overdue.cancel()
        return answer

    async def _do(self, work: Awaitable[T]) -> T:
        import asyncpg

        try:
            return await work
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            raise LedgerRefusedError(f"PostgreSQL: {error}") from error
        except asyncpg.PostgresError as error:
            self._drop()
            raise LedgerDownError(f"PostgreSQL: {error}") from error
        except OSError as error:
            self._drop()
            raise LedgerDownError(f"PostgreSQL: {str(error) or type(error).__name__}") from error
        except asyncpg.InterfaceError as error:
            self._drop()
            # asyncpg's own words may quote the address, and so the password.
            if isinstance(error, ValueError) and not isinstance(error, asyncpg.ClientConfigurationError):
                raise LedgerRefusedError(f"PostgreSQL: {type(error).__name__}") from None
            raise LedgerDownError(f"PostgreSQL: {type(error).__name__}") from None
        except LedgerDownError:
            raise
        except BaseException as error:
            self._drop()
            if isinstance(error, Exception):
                raise LedgerDownError(f"PostgreSQL: {type(error).__name__}") from None
            raise

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _connect(self) -> asyncpg.Connection:
        import asyncpg

        async with asyncio.timeout(self._patience_seconds):
            connection = await asyncpg.connect(self._dsn)
            try:
                async with connection.transaction():
                    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
                    await connection.execute(_SCHEMA)
                version = await connection.fetchval("SELECT max(version) FROM llm_proxy_ledger")
            except BaseException:
                connection.terminate()
                raise
        if version > SCHEMA_VERSION:
            connection.terminate()
            raise LedgerDownError(f"PostgreSQL: it has schema {version}, this version knows {SCHEMA_VERSION}")
        return connection
