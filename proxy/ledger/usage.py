"""What the ledger says was used, and what it cost: `llm-proxy usage`."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path

from proxy.errors import ProxyError

GROUPS = {"model": "coalesce(model, model_asked)", "caller": "caller", "provider": "coalesce(provider, 'none')"}
"""What rows may be summed up by: word to column."""


@dataclass(frozen=True, slots=True)
class Used:
    """The sum of some requests. `failed` are those with a status from 400, or an error in their stream."""

    name: str
    requests: int
    failed: int
    cached: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    mean_latency_ms: float


def used(file: Path, since: float, by: str) -> list[Used]:
    """Requests that began at `since` (epoch seconds) or later, by one of GROUPS, the dearest first.

    ProxyError if the file is no ledger of ours. What waits in the spool is not in it yet.
    """
    statement = f"""
        SELECT {GROUPS[by]}, count(*), sum(status >= 400 OR error IS NOT NULL), sum(cache = 'hit'),
          coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(cost_usd), 0.0), avg(latency_ms)
        FROM requests WHERE time >= ? GROUP BY 1 ORDER BY 7 DESC, 2 DESC, 1
    """  # noqa: S608 - one of our own words
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return [Used(*row) for row in connection.execute(statement, (since,))]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ProxyError(f"{file}: {error}") from error


def table(rows: list[Used], by: str) -> str:
    """For people: one line each, numbers aligned."""
    head = (by, "requests", "failed", "cached", "input", "output", "cost USD", "mean ms")
    lines = [head, *((*map(str, list(asdict(row).values())[:6]), *_rounded(row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def _rounded(row: Used) -> tuple[str, str]:
    return f"{row.cost_usd:.4f}", f"{row.mean_latency_ms:.1f}"
