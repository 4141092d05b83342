"""The ledger: one row for each request, in SQLite or PostgreSQL."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from proxy.settings.base import Duration, Section


class Ledger(Section):
    """Rows are gathered and written off the request path; while the database is away they spool to disk."""

    enabled: bool = True
    kind: Literal["sqlite", "postgres"] = "sqlite"
    file: Path | None = None
    """SQLite's file; None is `ledger.sqlite` in `state_dir`."""
    dsn: SecretStr | None = None
    dsn_file: Path | None = None
    """PostgreSQL's address, `postgresql://user:password@host/database`, or the file (mode 0600) that holds it."""
    flush_interval: Duration = Field(1.0, gt=0)
    batch_rows: int = Field(500, ge=1)
    spool_max_mb: float = Field(256.0, gt=0)
    """Beyond it the oldest spooled rows are given up, counted and told."""
    keep: Duration = 90 * 86_400.0
    """Rows older than this are removed daily; 0 keeps them for ever."""

    @model_validator(mode="after")
    def _address_of_its_kind(self) -> Self:
        given = (self.dsn is not None) + (self.dsn_file is not None)
        if self.kind == "postgres" and given != 1:
            raise ValueError("expected exactly one of dsn and dsn_file for kind postgres")
        if self.kind == "postgres" and find_spec("asyncpg") is None:
            raise ValueError("kind postgres needs the Python package asyncpg: pip install 'proxywatch[postgres]'")
        if self.kind == "sqlite" and given:
            raise ValueError("dsn and dsn_file are for kind postgres")
        return self
