"""Is something really growing, and how fast: robust slope and significance over a window of points."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")

MAX_POINTS = 300
"""Up to here every pair of points is looked at: 44,850 of them, about 10 ms."""


@dataclass(frozen=True, slots=True)
class Line:
    """`value = intercept + slope * time`, in the units of the points."""

    slope: float
    intercept: float


@dataclass(frozen=True, slots=True)
class Trend:
    """`tau` from -1 (always falling) to 1 (always rising); `p` is two-sided: the chance of so much order by chance."""

    tau: float
    p: float


def theil_sen(points: Sequence[tuple[float, float]]) -> Line | None:
    """The median of the slopes between all pairs of points (time, value); None if no two times differ.

    Up to 29 % of the points may be arbitrarily wrong without spoiling it. Beyond MAX_POINTS evenly spaced points,
    first and last among them, stand for all. Method: H. Theil 1950; P. K. Sen, "Estimates of the regression
    coefficient based on Kendall's tau", JASA 63 (1968). The intercept is the median of `value - slope * time`
    (W. J. Conover, Practical Nonparametric Statistics).
    """
    chosen = _thinned(points)
    slopes = [
        (later_value - value) / (later_time - time)
        for index, (time, value) in enumerate(chosen)
        for later_time, later_value in chosen[index + 1 :]
        if later_time != time
    ]
    if not slopes:
        return None
    slope = median(slopes)
    return Line(slope, median(value - slope * time for time, value in chosen))


def mann_kendall(values: Sequence[float]) -> Trend:
    """Whether values in their order of time rise or fall more than chance would have it; no line is assumed.

    Fewer than three values, or all alike, are no trend: tau 0, p 1. The normal approximation with correction for
    ties and continuity is used, which is good from about ten values on. Tau is Kendall's tau-b against time.
    Beyond MAX_POINTS evenly spaced values stand for all. Method: H. B. Mann 1945; M. G. Kendall, Rank Correlation
    Methods (1975); the variance under ties as in R. O. Gilbert, Statistical Methods for Environmental Pollution
    Monitoring (1987), chapter 16.
    """
    chosen = _thinned(values)
    count = len(chosen)
    if count < 3:
        return Trend(0.0, 1.0)
    score = sum(
        (later > value) - (later < value) for index, value in enumerate(chosen) for later in chosen[index + 1 :]
    )
    ties = [size for size in Counter(chosen).values() if size > 1]
    variance = (_spread(count) - sum(_spread(size) for size in ties)) / 18
    if variance == 0:
        return Trend(0.0, 1.0)
    pairs = count * (count - 1) / 2
    untied = pairs - sum(size * (size - 1) / 2 for size in ties)
    z = (score - math.copysign(1, score)) / math.sqrt(variance) if score else 0.0
    return Trend(score / math.sqrt(pairs * untied), math.erfc(abs(z) / math.sqrt(2)))


def _spread(size: int) -> int:
    return size * (size - 1) * (2 * size + 5)


def _thinned(items: Sequence[T]) -> Sequence[T]:
    if len(items) <= MAX_POINTS:
        return items
    step = (len(items) - 1) / (MAX_POINTS - 1)
    return [items[round(index * step)] for index in range(MAX_POINTS)]
