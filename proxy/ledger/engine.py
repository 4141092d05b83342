"""What the ledger asks of a database, and which one the settings want."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.errors import ConfigError
from proxy.ledger.row import Row
from proxy.secret_file import secret_fault
from proxy.settings import Settings


class Sink(Protocol):
    """A database. Whatever it cannot take now is LedgerDownError, what it never will LedgerRefusedError."""

    async def write(self, rows: Sequence[Row]) -> None:
        """Writes all rows or none; one that is there already counts as written. Without rows: shows that it would."""

    async def prune(self, before: float) -> int:
        """Removes the rows of requests that began before `before` (epoch seconds); returns how many."""

    async def close(self) -> None:
        """Gives everything back; raises nothing."""


def sink_of(settings: Settings) -> Sink:
    """The database that the settings want, not yet connected. ConfigError if it cannot be addressed."""
    wanted = settings.ledger
    if wanted.kind == "sqlite":
        from proxy.ledger.sqlite import SqliteLedger

        return SqliteLedger(wanted.file or settings.state_dir / "ledger.sqlite")
    try:
        from proxy.ledger.postgres import PostgresLedger

        return PostgresLedger(_dsn(settings))
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"kind postgres needs the Python package {error.name}",
            key="ledger.kind",
            hint="pip install 'proxywatch[postgres]'",
        ) from error


def _dsn(settings: Settings) -> str:
    wanted = settings.ledger
    if wanted.dsn is not None:
        return wanted.dsn.get_secret_value()
    assert wanted.dsn_file is not None
    if (fault := secret_fault(wanted.dsn_file)) is not None:
        raise ConfigError(fault, key="ledger.dsn_file")
    return wanted.dsn_file.read_text(encoding="utf-8").strip()
