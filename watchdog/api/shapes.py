"""How moments and numbers look in every answer of the control API."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache

from watchdog.core.permission import Denial


def moment(at: float | None) -> dict[str, object] | None:
    """`{"epoch": seconds, "iso": "2026-01-31T12:00:00.000Z"}`; None stays None."""
    if at is None:
        return None
    return {"epoch": round(at, 3), "iso": _iso(at)}


@lru_cache(maxsize=16_384)
def _iso(at: float) -> str:
    """The same moments of hundreds of incidents are shown again at every answer."""
    return datetime.fromtimestamp(at, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def number(value: float) -> float | str:
    """The number, or its Prometheus spelling (`NaN`, `+Inf`, `-Inf`) where JSON has none."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return value


def seconds(value: float | None) -> float | None:
    """A duration to the millisecond."""
    return None if value is None else round(value, 3)


def denial(refusal: Denial) -> dict[str, object]:
    """One refusal of a guard. `until` None: only a person or a change of the world ends it."""
    return {
        "reason": str(refusal.reason),
        "text": refusal.text,
        "until": moment(refusal.until),
        "final": refusal.final,
    }
