"""PURE. What a row of the ledger holds, and the checksummed line that it is while it waits on disk."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.errors import ProxyError

SCHEMA_VERSION = 1
_CHECKSUM_DIGITS = 8

Row = tuple[Any, ...]
"""Values in the order of COLUMNS."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column, and its type in each engine."""

    name: str
    sqlite: str
    postgres: str


COLUMNS = (
    Column("incarnation", "INTEGER NOT NULL", "bigint"),
    Column("sequence", "INTEGER NOT NULL", "bigint"),
    Column("time", "REAL NOT NULL", "timestamptz"),
    Column("request_id", "TEXT NOT NULL", "text"),
    Column("caller", "TEXT", "text"),
    Column("operation", "TEXT NOT NULL", "text"),
    Column("model_asked", "TEXT NOT NULL", "text"),
    Column("provider", "TEXT", "text"),
    Column("model", "TEXT", "text"),
    Column("key_id", "TEXT", "text"),
    Column("status", "INTEGER NOT NULL", "integer"),
    Column("error", "TEXT", "text"),
    Column("stream", "INTEGER NOT NULL", "boolean"),
    Column("input_tokens", "INTEGER", "bigint"),
    Column("output_tokens", "INTEGER", "bigint"),
    Column("cached_tokens", "INTEGER", "bigint"),
    Column("cost_usd", "REAL", "double precision"),
    Column("latency_ms", "REAL NOT NULL", "double precision"),
    Column("first_content_ms", "REAL", "double precision"),
    Column("attempts", "INTEGER NOT NULL", "integer"),
    Column("continued", "INTEGER NOT NULL", "integer"),
    Column("cache", "TEXT NOT NULL", "text"),
)
"""`incarnation` and `sequence` (the worker's random number, and its rows' own) name a row for ever, so that one that is
written twice is there once. `time` is when the request began, in epoch seconds; `status` 499 a caller who went away."""
NAMES = tuple(column.name for column in COLUMNS)


class LedgerDownError(ProxyError):
    """The database took nothing, for now; the rows are as they were."""


class LedgerRefusedError(ProxyError):
    """The database will never take these rows; nothing of them was written."""


def packed(row: Row) -> bytes:
    """The row as a line: its CRC-32, a space, JSON. TypeError for what JSON or 64 bits cannot hold."""
    line = orjson.dumps(row)
    return b"%08x %b\n" % (zlib.crc32(line), line)


def unpacked(lines: Iterable[bytes]) -> tuple[list[Row], int]:
    """The rows of such lines, and how many lines were torn and are left out."""
    rows: list[Row] = []
    torn = 0
    for line in lines:
        body = line[_CHECKSUM_DIGITS + 1 :]
        if line[: _CHECKSUM_DIGITS + 1] != b"%08x " % zlib.crc32(body):
            torn += 1
            continue
        row = orjson.loads(body)
        if len(row) == len(COLUMNS):
            rows.append(tuple(row))
        else:
            torn += 1
    return rows, torn


def tamed(row: Row) -> Row:
    """The row with what no database takes made fit: integers beyond 63 bits, characters that are none."""
    return tuple(_tame(value) for value in row)


def _tame(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode().replace("\0", "")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None
    return value
