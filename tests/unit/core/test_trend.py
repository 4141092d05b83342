"""Slopes and their significance, against values worked out by hand and against laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.core.trend import MAX_POINTS, Line, Trend, mann_kendall, theil_sen

integers = st.integers(-1000, 1000)


@pytest.mark.parametrize(
    ("points", "slope", "intercept"),
    [
        ([(0, 1), (1, 3)], 2.0, 1.0),
        ([(0, 0), (1, 1), (2, 2), (3, 9)], 2.0, -0.5),
        ([(0, 5), (10, 5), (20, 5)], 0.0, 5.0),
        ([(0, 1), (0, 3), (2, 2)], 0.0, 2.0),
        ([(0, 9), (1, 6), (2, 3)], -3.0, 9.0),
    ],
)
def test_slopes_worked_out_by_hand(points: list[tuple[float, float]], slope: float, intercept: float) -> None:
    """The slope is the median of all pairs' slopes, the intercept the median of what it leaves."""
    line = theil_sen(points)
    assert line is not None
    assert line.slope == pytest.approx(slope)
    assert line.intercept == pytest.approx(intercept)


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, 2.0), (1.0, 5.0)]])
def test_no_two_times_no_slope(points: list[tuple[float, float]]) -> None:
    """Without two different times there is no slope, and that is said."""
    assert theil_sen(points) is None


@pytest.mark.parametrize(
    ("values", "tau", "p"),
    [
        # S = 45, variance 125: z = 44 / 11.18.
        (list(range(10)), 1.0, math.erfc(44 / math.sqrt(125) / math.sqrt(2))),
        (list(range(10, 0, -1)), -1.0, math.erfc(44 / math.sqrt(125) / math.sqrt(2))),
        # Three pairs of ties: S = 12, variance (510 - 3 * 18) / 18; p is 0.0289.
        ([1, 1, 2, 2, 3, 3], 12 / math.sqrt(15 * 12), math.erfc(11 / math.sqrt(456 / 18) / math.sqrt(2))),
        # As many pairs rise as fall.
        ([1, 3, 3, 1], 0.0, 1.0),
        ([7, 7, 7, 7], 0.0, 1.0),
        ([1, 2], 0.0, 1.0),
        ([], 0.0, 1.0),
    ],
)
def test_significance_worked_out_by_hand(values: list[float], tau: float, p: float) -> None:
    """Kendall's score, its variance under ties and the continuity correction."""
    assert mann_kendall(values) == Trend(pytest.approx(tau), pytest.approx(p))


@given(slope=integers, intercept=integers, count=st.integers(2, 40))
def test_a_line_is_found_exactly(slope: int, intercept: int, count: int) -> None:
    """The slope and intercept of points on a line are that line's."""
    assert theil_sen([(x, intercept + slope * x) for x in range(count)]) == Line(slope, intercept)


@given(st.lists(integers, min_size=2, max_size=30), integers, integers)
def test_moving_the_points_moves_no_slope(values: list[int], up: int, along: int) -> None:
    """Slope and significance do not depend on where the axes are."""
    line = theil_sen(list(enumerate(values)))
    moved = theil_sen([(time + along, value + up) for time, value in enumerate(values)])
    assert line is not None
    assert moved is not None
    assert moved.slope == pytest.approx(line.slope)
    assert mann_kendall([value + up for value in values]) == mann_kendall(values)


@given(st.lists(st.tuples(st.integers(0, 49), integers.map(lambda n: n * 10**6)), max_size=10))
def test_a_few_wild_points_change_little(outliers: list[tuple[int, int]]) -> None:
    """A fifth of the points may be anything: the slope of the rest still comes out."""
    values = [3.0 * time + (time % 2) for time in range(50)]
    for place, value in outliers:
        values[place] = value
    line = theil_sen(list(enumerate(values)))
    assert line is not None
    assert line.slope == pytest.approx(3.0, abs=0.5)


@given(st.lists(st.integers(1, 1000), min_size=10, max_size=60))
def test_what_always_grows_is_significant(steps: list[int]) -> None:
    """A series that only rises is a trend beyond doubt; its mirror image falls as certainly."""
    values = [sum(steps[: end + 1]) for end in range(len(steps))]
    rising, falling = mann_kendall(values), mann_kendall(values[::-1])
    assert rising.p < 0.001
    assert rising.tau == pytest.approx(1.0)
    assert (falling.tau, falling.p) == (pytest.approx(-rising.tau), pytest.approx(rising.p))


@given(st.lists(integers, max_size=40))
def test_p_and_tau_stay_in_their_bounds(values: list[int]) -> None:
    """p is a probability and tau a correlation, whatever comes."""
    trend = mann_kendall(values)
    assert 0 <= trend.p <= 1
    assert -1.0000001 <= trend.tau <= 1.0000001


def test_a_saw_tooth_is_no_trend() -> None:
    """What rises and falls back in turn is not significant, however steep its teeth are."""
    assert mann_kendall([time % 10 for time in range(100)]).p > 0.05


def test_a_long_series_is_thinned_the_same_way_each_time() -> None:
    """Beyond the limit evenly spaced points stand for all, and the result is still right and repeatable."""
    points = [(float(x), 2.0 * x + (x % 7)) for x in range(MAX_POINTS * 20)]
    first = theil_sen(points)
    assert first == theil_sen(points)
    assert first is not None
    assert first.slope == pytest.approx(2.0, abs=0.01)
    assert mann_kendall([value for _, value in points]).p < 1e-6
