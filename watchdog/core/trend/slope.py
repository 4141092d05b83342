"""Robust slope, its interval, and the significance of a rise over a window of points."""

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


@dataclass(frozen=True, slots=True)
class Interval:
    """What the slope may be, from `low` to `high`."""

    low: float
    high: float


def theil_sen(points: Sequence[tuple[float, float]]) -> Line | None:
    """The median of the slopes between all pairs of points (time, value); None if no two times differ.

    Up to 29 % of the points may be arbitrarily wrong without spoiling it. Beyond MAX_POINTS evenly spaced points,
    first and last among them, stand for all. Method: H. Theil 1950; P. K. Sen, "Estimates of the regression
    coefficient based on Kendall's tau", JASA 63 (1968). The intercept is the median of `value - slope * time`
    (W. J. Conover, Practical Nonparametric Statistics).
    """
    chosen = _thinned(points)
    slopes = _slopes(chosen)
    if not slopes:
        return None
    slope = median(slopes)
    return Line(slope, median(value - slope * time for time, value in chosen))


def sen_interval(points: Sequence[tuple[float, float]], *, inflation: float = 1.0, z: float = 1.96) -> Interval | None:
    """Between which two of the pairs' slopes the true one lies; None if no two times differ.

    The normal approximation by Kendall's variance, `z` standard deviations to each side (1.96: 95 %). `inflation` is by
    how much neighbours that resemble each other make that variance larger; an interval that would need more pairs
    than there are ends at the flattest and the steepest. Method: P. K. Sen 1968; M. Hollander, D. A. Wolfe,
    Nonparametric Statistical Methods, chapter 9; inflation: K. H. Hamed, A. R. Rao, Journal of Hydrology 204 (1998).
    """
    chosen = _thinned(points)
    slopes = sorted(_slopes(chosen))
    if not slopes:
        return None
    reach = z * math.sqrt(_variance([value for _, value in chosen]) * inflation)
    count = len(slopes)
    return Interval(
        slopes[max(0, math.floor((count - reach) / 2))], slopes[min(count - 1, math.ceil((count + reach) / 2))]
    )


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
    variance = _variance(chosen)
    if variance == 0:
        return Trend(0.0, 1.0)
    ties = [size for size in Counter(chosen).values() if size > 1]
    pairs = count * (count - 1) / 2
    untied = pairs - sum(size * (size - 1) / 2 for size in ties)
    z = (score - math.copysign(1, score)) / math.sqrt(variance) if score else 0.0
    return Trend(score / math.sqrt(pairs * untied), math.erfc(abs(z) / math.sqrt(2)))


def _slopes(points: Sequence[tuple[float, float]]) -> list[float]:
    return [
        (later_value - value) / (later_time - time)
        for index, (time, value) in enumerate(points)
        for later_time, later_value in points[index + 1 :]
        if later_time != time
    ]


def _variance(values: Sequence[float]) -> float:
    """Of Kendall's score if there is no trend, under ties."""
    ties = sum(_spread(size) for size in Counter(values).values() if size > 1)
    return (_spread(len(values)) - ties) / 18


def _spread(size: int) -> int:
    return size * (size - 1) * (2 * size + 5)


def _thinned(items: Sequence[T]) -> Sequence[T]:
    if len(items) <= MAX_POINTS:
        return items
    step = (len(items) - 1) / (MAX_POINTS - 1)
    return [items[round(index * step)] for index in range(MAX_POINTS)]
