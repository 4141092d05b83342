"""What is written down of a request when its last byte has gone: metrics, ledger, the caller's tokens, the log.

`Books.settle` is called once for each request that has an account, and costs some microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.call import Account, Operation
from proxy.clock import Clock
from proxy.ledger.engine import sink_of
from proxy.ledger.writer import Ledger
from proxy.metrics import Metrics
from proxy.settings import Settings
from proxy.telemetry import Telemetry

_OPERATIONS = {operation: operation.value for operation in Operation}
"""Plain text, of which a database need not be told that it is some."""
_TEXT_LIMIT = 200
"""Of what others name: models in requests and answers."""

Charge = Callable[[str, int, str | None], None]
"""Told (id of the caller's key, tokens, the provider that was asked or None) of each answer."""


class Books:
    """One per worker; made before the event loop serves, started inside it."""

    def __init__(self, settings: Settings, metrics: Metrics, clock: Clock, charge: Charge) -> None:
        """ConfigError if the ledger's database cannot be addressed."""
        self._clock = clock
        self._charge = charge
        self._telemetry = Telemetry(settings, metrics)
        self._ledger = Ledger(settings, sink_of(settings), metrics, clock) if settings.ledger.enabled else None

    async def start(self) -> None:
        """Begins to write the ledger; a database that is away is no error."""
        if self._ledger is not None:
            await self._ledger.start()

    async def close(self) -> None:
        """Writes or spools what is left."""
        if self._ledger is not None:
            await self._ledger.close()

    def health(self) -> dict[str, Any]:
        """How the ledger does: `status` healthy, degraded or disabled."""
        return {"status": "disabled"} if self._ledger is None else self._ledger.health()

    def settle(
        self, account: Account, request_id: str, caller: str, status: int, seconds: float
    ) -> dict[str, str | int | float | None]:
        """Writes one request down; `status` is 499 if the caller went away. Returns its fields for the log."""
        usage, first = account.usage, account.first_content_seconds
        if account.cache != "hit":
            self._telemetry.observe(account, status, seconds, first)
        if usage is None:
            given = taken = cached = None
        else:
            given, taken, cached = usage.input, usage.output, usage.cached
            self._charge(caller, given + taken, None if account.cache == "hit" else account.provider)
        if self._ledger is not None:
            self._ledger.record(
                (
                    int((self._clock.wall() - seconds) * 1e6) / 1e6,
                    request_id,
                    caller,
                    _OPERATIONS[account.operation],
                    _short(account.model_asked),
                    account.provider,
                    account.model and _short(account.model),
                    account.key_id,
                    status,
                    account.error,
                    account.stream,
                    given,
                    taken,
                    cached,
                    account.cost_usd,
                    milliseconds(seconds),
                    None if first is None else milliseconds(first),
                    account.attempts,
                    account.continued,
                    account.cache,
                )
            )
        return {
            "provider": account.provider,
            "model": account.model or account.model_asked[:_TEXT_LIMIT],
            "input_tokens": given,
            "output_tokens": taken,
            "cache": account.cache,
            "attempts": account.attempts,
        }


def milliseconds(seconds: float) -> float:
    """To three places, and a tenth as dear as `round`, which goes by way of text."""
    return int(seconds * 1e6 + 0.5) / 1000


def _short(name: str) -> str:
    """PostgreSQL takes no NUL, and a caller may send anything."""
    return name[:_TEXT_LIMIT].replace("\0", "")
