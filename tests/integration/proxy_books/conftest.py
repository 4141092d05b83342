"""Ledgers over real files, and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from ledger_place import Place
from load_on_service import books_service
from postgres_server import PostgresServer, find_postgres

__all__ = ["books_service"]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    for ledger, measured in made.opened:
        await ledger.close()
        measured.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running server with an empty database, shared by a process's tests."""
    server = PostgresServer(find_postgres())
    server.start()
    yield server
    server.end()
