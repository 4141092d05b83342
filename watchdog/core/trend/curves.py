"""The curves that a history is compared with, and which of them says most with least.

Each is fitted by least squares and weighed by Bayes' information criterion (G. Schwarz, Annals of Statistics 6, 1978):
one more parameter must explain more than chance would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from watchdog.core.trend.fitting import Column, Fit, fit
from watchdog.core.trend.judgement import Shape

_SETTLING = (0.02, 0.04, 0.07, 0.12, 0.2, 0.35, 0.6, 1.0)
"""Time constants of a saturation, as shares of the window."""
_SETTLED_EARLY = (0.03, 0.06, 0.1, 0.16)
"""Those after which a leak can still be told from the rest of a warm-up."""
_TAILS = (0.003, 0.009, 0.025, 0.07, 0.2)
"""Where a logarithm begins to bend, as shares of the window."""
_LIKENESS_OF_LIFE = 0.01
"""No curve is followed closer than by so much of the whole range, however little noise there is."""
_BETWEEN = 1.3
_EDGE = 3
"""A knot stands at least so many values from either end."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One fitted curve. `rising` is the place of the column that keeps growing to the end, None where none does;
    `since` from 0 to 1 is where in the window it begins to be all that grows."""

    shape: Shape
    columns: tuple[Column, ...]
    fit: Fit
    score: float
    rising: int | None = None
    since: float = 0.0
    by_requests: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """Where the values stand, from 0 to 1: in time, or in requests served."""

    places: Column
    times: Column
    by_requests: bool = False


class Gallery:
    """Fits curves to one column of values."""

    def __init__(self, values: Column, least_variance: float) -> None:
        self._values = values
        self._ones: Column = (1.0,) * len(values)
        self._least = max(least_variance, (_LIKENESS_OF_LIFE * (max(values) - min(values))) ** 2)
        self.curves: list[Curve] = []

    def flat(self) -> None:
        """It stays; and it falls, which is no reason to worry either."""
        self._add(Shape.NOISE, [], None)

    def traffic(self, rate: Column, axes: Sequence[Axis]) -> None:
        """It goes with the rate; or with the rate and grows besides."""
        self._add(Shape.TRAFFIC, [rate], None, positive=(1,), more=-2)
        for axis in axes:
            self._add(Shape.LEAK, [rate, axis.places], 2, positive=(1, 2), axis=axis)

    def growing(self, axis: Axis) -> None:
        """A line, a line that begins late, one that ends early, and saturations with and without a line."""
        places = axis.places
        self._add(Shape.LEAK, [places], 1, positive=(1,), axis=axis)
        self._add(Shape.NOISE, [places], None, negative=(1,))
        for knot in range(_EDGE, len(places) - _EDGE, 2):
            late = [max(0.0, place - places[knot]) for place in places]
            self._add(Shape.LEAK, [late], 1, positive=(1,), axis=axis, since=axis.times[knot])
            early = [min(place, places[knot]) for place in places]
            self._add(Shape.WARM_UP, [early], None, positive=(1,), more=1)
        rises = [later - own for own, later in pairwise(self._values)]
        jump = rises.index(max(rises)) + 1
        step = [float(place >= jump) for place in range(len(places))]
        self._add(Shape.LEAK, [step, places], 2, positive=(1, 2), axis=axis, more=1)
        self._bent(places, _SETTLING, lambda place, settling: 1 - math.exp(-place / settling))
        self._bent(places, _TAILS, lambda place, tail: math.log1p(place / tail))
        for settling in _SETTLED_EARLY:
            bend = [1 - math.exp(-place / settling) for place in places]
            self._add(Shape.LEAK, [bend, places], 2, positive=(1, 2), axis=axis, since=min(0.5, 3 * settling), more=1)

    def _bent(self, places: Column, bends: Sequence[float], form: Callable[[float, float], float]) -> None:
        """One form of saturation at each of the bends, and between the best of them and its neighbours."""

        def score(bend: float) -> float:
            return self._add(Shape.WARM_UP, [[form(place, bend) for place in places]], None, positive=(1,), more=1)

        best = min(bends, key=score)
        for bend in (best / _BETWEEN, best * _BETWEEN):
            score(bend)

    def steps(self) -> None:
        """One step upwards, and two: of all places the best."""
        for columns in self._best_steps():
            self._add(Shape.STEP, columns, None, positive=tuple(range(1, len(columns) + 1)), more=len(columns))

    def best(self, shape: Shape | None = None) -> Curve | None:
        """The curve that says most with least, of one shape or of all but leaks."""
        chosen = [curve for curve in self.curves if (curve.shape is shape if shape else curve.shape is not Shape.LEAK)]
        return min(chosen, key=lambda curve: curve.score, default=None)

    def _add(
        self,
        shape: Shape,
        columns: Sequence[Column],
        rising: int | None,
        *,
        positive: tuple[int, ...] = (),
        negative: tuple[int, ...] = (),
        axis: Axis | None = None,
        since: float = 0.0,
        more: int = 0,
    ) -> float:
        """The score of the curve, infinite where it cannot be fitted or would fall where it must rise."""
        every = (self._ones, *columns)
        found = fit(every, self._values)
        if found is None or len(self._values) <= len(every):
            return math.inf
        if any(found.coefficients[place] <= 0 for place in positive):
            return math.inf
        if any(found.coefficients[place] >= 0 for place in negative):
            return math.inf
        parameters = len(every) + more + (1 if since else 0)
        score = self._score(found.squares, parameters)
        by_requests = axis is not None and axis.by_requests
        self.curves.append(Curve(shape, every, found, score, rising, since, by_requests))
        return score

    def _score(self, squares: float, parameters: int) -> float:
        count = len(self._values)
        return count * math.log(squares / count + self._least) + parameters * math.log(count)

    def _best_steps(self) -> list[list[Column]]:
        """The best place for a step, and the best for a second one beside it."""
        count = len(self._values)
        sums = [0.0, *accumulate(self._values)]

        def gain(cuts: Sequence[int]) -> float:
            return sum((sums[end] - sums[start]) ** 2 / (end - start) for start, end in pairwise((0, *cuts, count)))

        places = range(1, count)
        first = max(places, key=lambda cut: gain([cut]))
        second = max((cut for cut in places if cut != first), key=lambda cut: gain(sorted((first, cut))))
        columns = {cut: [float(place >= cut) for place in range(count)] for cut in (first, second)}
        return [[columns[first]], [columns[first], columns[second]]]
