"""What a history of one figure is judged by, and what the verdict says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Shape(StrEnum):
    """What a history looks like. Only `leak` is a reason to worry."""

    LEAK = "leak"
    """The floor rises for as long as one can see, and has not slowed down."""
    WARM_UP = "warm_up"
    """It rose and slows down, or has stopped."""
    PLATEAU = "plateau"
    """It stays."""
    SAW_TOOTH = "saw_tooth"
    """It rises slowly and falls at once, again and again, and the falls reach as low as before."""
    STEP = "step"
    """It rose once or twice, at once, and stayed."""
    TRAFFIC = "traffic"
    """It goes with the rate of requests, or with the greatest rate so far."""
    NOISE = "noise"
    """It goes up and down without any of these."""
    UNKNOWN = "unknown"
    """Too little has been seen."""


@dataclass(frozen=True, slots=True)
class Point:
    """One reading. `time` is in seconds, `requests` is how many the process has served since it started (None: not
    known), `explained` is the part of `value` that is known to be no leak, such as a cache's own account of its size.
    """

    time: float
    value: float
    requests: float | None = None
    explained: float = 0.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """`slope` is in units of the value per second and `low` to `high` its interval of 95 %; `p` is the chance that so
    clear a rise comes about by chance, `per_request` the growth per request (None where requests are not known or too
    few), `confidence` from 0 to 1 how sure the shape is, `window` the seconds that were looked at.
    """

    shape: Shape
    slope: float = 0.0
    low: float = 0.0
    high: float = 0.0
    p: float = 1.0
    per_request: float | None = None
    confidence: float = 0.0
    window: float = 0.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """Seconds until a limit is reached at the slope found, and at the steepest that the interval allows."""

    expected: float
    earliest: float


def until(limit: float, now: float, judgement: Judgement) -> Outlook | None:
    """When a value that is `now` will reach `limit`; 0 seconds when it has; None for what is no leak."""
    if judgement.shape is not Shape.LEAK or judgement.slope <= 0:
        return None
    room = max(0.0, limit - now)
    return Outlook(room / judgement.slope, room / max(judgement.high, judgement.slope))
