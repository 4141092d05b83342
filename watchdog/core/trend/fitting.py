"""Least squares over a few columns, and how sure a coefficient is when neighbours resemble each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import mul

Column = Sequence[float]

_SINGULAR = 1e-9
_MOST_ALIKE = 0.95


@dataclass(frozen=True, slots=True)
class Fit:
    """The coefficients by column, what they leave of the values, and the diagonal of the inverse normal matrix."""

    coefficients: tuple[float, ...]
    residuals: tuple[float, ...]
    spread: tuple[float, ...]

    @property
    def squares(self) -> float:
        """The sum of the squared residuals."""
        return _product(self.residuals, self.residuals)


def fit(columns: Sequence[Column], values: Column) -> Fit | None:
    """The least squares; None when the columns say the same, so that there is no single answer."""
    rows = [
        [*(_product(one, other) for other in columns), _product(one, values), *(0.0 for _ in columns)]
        for one in columns
    ]
    size = len(columns)
    for index, row in enumerate(rows):
        row[size + 1 + index] = 1.0
    scales = [row[index] for index, row in enumerate(rows)]
    for index, row in enumerate(rows):  # Gauss and Jordan; a symmetric positive matrix needs no exchange of rows
        pivot = row[index]
        if pivot <= _SINGULAR * scales[index]:
            return None
        rows[index] = row = [cell / pivot for cell in row]
        for other in range(size):
            if other != index and (factor := rows[other][index]):
                rows[other] = [cell - factor * own for cell, own in zip(rows[other], row, strict=True)]
    coefficients = tuple(row[size] for row in rows)
    residuals = list(values)
    for coefficient, column in zip(coefficients, columns, strict=True):
        residuals = [left - coefficient * cell for left, cell in zip(residuals, column, strict=True)]
    return Fit(coefficients, tuple(residuals), tuple(row[size + 1 + index] for index, row in enumerate(rows)))


def likeness(residuals: Sequence[float], parameters: int) -> float:
    """The correlation of neighbours, from 0 to 0.95, corrected for what fitting takes away from it.

    The correction follows F. H. C. Marriott and J. A. Pope, "Bias in the estimation of autocorrelations", Biometrika
    41 (1954), with the count of fitted parameters in the place of the mean.
    """
    count = len(residuals)
    whole = _product(residuals, residuals)
    if not whole or count <= 2 * parameters:
        return 0.0
    raw = _product(residuals[1:], residuals[:-1]) / whole
    return min(_MOST_ALIKE, max(0.0, (raw * count + parameters) / (count - 2 * parameters)))


def inflation(alike: float) -> float:
    """By how much neighbours that are so much alike swell the variance of a slope."""
    return (1 + alike) / (1 - alike)


def certainty(columns: Sequence[Column], values: Column, place: int, alike: float, least_variance: float) -> float:
    """How many standard deviations the coefficient at `place` lies above zero, as a normal deviate.

    Generalised least squares for residuals that follow their predecessors by `alike` (S. J. Prais and C. B. Winsten,
    1954): for independent ones it is the ordinary test, for a random walk the test of the mean of its steps.
    `least_variance` is that of the rounding of the values. Student's t is turned into a normal deviate by the
    approximation of D. L. Wallace, Annals of Mathematical Statistics 30 (1959).
    """
    whitened = [_whitened(column, alike) for column in columns]
    found = fit(whitened, _whitened(values, alike))
    freedom = len(values) - len(columns)
    if found is None or freedom < 1:
        return 0.0
    variance = max(found.squares / freedom, least_variance)
    t = found.coefficients[place] / math.sqrt(variance * found.spread[place])
    return math.copysign(_deviate(t, freedom), t)


def _whitened(column: Column, alike: float) -> list[float]:
    first = math.sqrt(1 - alike * alike) * column[0]
    return [first, *(own - alike * before for before, own in pairwise(column))]


def _deviate(t: float, freedom: int) -> float:
    return (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(t * t / freedom))


def _product(one: Column, other: Column) -> float:
    product: float = sum(map(mul, one, other))
    return product
