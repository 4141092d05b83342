"""Functions over the samples of a range: rates, trends, and what happened over time.

Definitions, extrapolation and compensated sums are those of Prometheus 2.42. Each function takes a window and the
scalar arguments; None means that the series has no result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from watchdog.metrics.promql.values import Sum, Window, divide, quantile

RangeFunction = Callable[[Window, float, int], float | None]
"""(window, scalar argument or 0, time of evaluation in ms) → value."""


def _increase_of(window: Window, counter: bool) -> float | None:
    if len(window.values) < 2:
        return None
    result = window.values[-1] - window.values[0]
    # Sorting what is sorted already is one quick pass; most windows of a counter have no reset.
    if counter and sorted(window.values) != window.values:
        for before, after in pairwise(window.values):
            if after < before:
                result += before
    return result


def _extrapolated(window: Window, counter: bool, per_second: bool) -> float | None:
    """The increase over the window's samples, extended to its bounds where the series seems to go on to them."""
    result = _increase_of(window, counter)
    if result is None:
        return None
    to_start = (window.times[0] - window.start) / 1000
    to_end = (window.end - window.times[-1]) / 1000
    sampled = (window.times[-1] - window.times[0]) / 1000
    between = sampled / (len(window.times) - 1)
    if counter and result > 0 and window.values[0] >= 0:
        to_start = min(to_start, sampled * (window.values[0] / result))
    threshold = between * 1.1
    extended = sampled
    extended += to_start if to_start < threshold else between / 2
    extended += to_end if to_end < threshold else between / 2
    factor = extended / sampled
    if per_second:
        factor /= (window.end - window.start) / 1000
    return result * factor


def _instant(window: Window, per_second: bool) -> float | None:
    if len(window.values) < 2:
        return None
    before, last = window.values[-2:]
    if not per_second:
        return last - before
    return (last if last < before else last - before) / ((window.times[-1] - window.times[-2]) / 1000)


def _average(values: list[float]) -> float:
    mean = Sum()
    for count, value in enumerate(values, start=1):
        running = mean.raw
        if math.isinf(running):
            if math.isinf(value) and (running > 0) == (value > 0):
                continue
            if math.isfinite(value):
                continue
        mean.add(value / count - running / count)
    return mean.raw if math.isinf(mean.raw) else mean.value


def _total(values: list[float]) -> float:
    total = Sum()
    for value in values:
        total.add(value)
    return total.raw if math.isinf(total.raw) else total.value


def _variance(values: list[float]) -> float:
    mean, squares = Sum(), Sum()
    for count, value in enumerate(values, start=1):
        delta = value - mean.value
        mean.add(delta / count)
        squares.add(delta * (value - mean.value))
    return squares.value / len(values)


def _extreme(values: list[float], better: Callable[[float, float], bool]) -> float:
    best = values[0]
    for value in values:
        if better(value, best) or best != best:
            best = value
    return best


def _line(window: Window, origin: int) -> tuple[float, float]:
    """Slope per second and value at `origin` of the least-squares line."""
    first = window.values[0]
    if all(value == first for value in window.values[1:]):
        return (math.nan, math.nan) if math.isinf(first) else (0.0, first)
    count = float(len(window.values))
    sums = x, y, xy, xx = Sum(), Sum(), Sum(), Sum()
    for time, value in zip(window.times, window.values, strict=True):
        seconds = (time - origin) / 1000
        for total, summand in zip(sums, (seconds, value, seconds * value, seconds * seconds), strict=True):
            total.add(summand)
    covariance = xy.value - x.value * y.value / count
    variance = xx.value - x.value * x.value / count
    slope = divide(covariance, variance)
    return slope, y.value / count - slope * x.value / count


def _deriv(window: Window) -> float | None:
    return _line(window, window.times[0])[0] if len(window.values) > 1 else None


def _predict(window: Window, seconds: float, at: int) -> float | None:
    if len(window.values) < 2:
        return None
    slope, intercept = _line(window, at)
    return slope * seconds + intercept


def _changes(values: list[float]) -> float:
    return float(sum(after != before and (after == after or before == before) for before, after in pairwise(values)))


def _resets(values: list[float]) -> float:
    return float(sum(after < before for before, after in pairwise(values)))


RANGE_FUNCTIONS: dict[str, RangeFunction] = {
    "rate": lambda window, _, __: _extrapolated(window, counter=True, per_second=True),
    "increase": lambda window, _, __: _extrapolated(window, counter=True, per_second=False),
    "delta": lambda window, _, __: _extrapolated(window, counter=False, per_second=False),
    "irate": lambda window, _, __: _instant(window, per_second=True),
    "idelta": lambda window, _, __: _instant(window, per_second=False),
    "deriv": lambda window, _, __: _deriv(window),
    "predict_linear": _predict,
    "changes": lambda window, _, __: _changes(window.values),
    "resets": lambda window, _, __: _resets(window.values),
    "avg_over_time": lambda window, _, __: _average(window.values),
    "sum_over_time": lambda window, _, __: _total(window.values),
    "min_over_time": lambda window, _, __: _extreme(window.values, lambda value, best: value < best),
    "max_over_time": lambda window, _, __: _extreme(window.values, lambda value, best: value > best),
    "count_over_time": lambda window, _, __: float(len(window.values)),
    "last_over_time": lambda window, _, __: window.values[-1],
    "present_over_time": lambda _, __, ___: 1.0,
    "stddev_over_time": lambda window, _, __: math.sqrt(_variance(window.values)),
    "stdvar_over_time": lambda window, _, __: _variance(window.values),
    "quantile_over_time": lambda window, fraction, _: quantile(fraction, window.values),
}
KEEP_NAME = frozenset({"last_over_time"})
SCALAR_FIRST = frozenset({"quantile_over_time"})
"""Range functions whose scalar stands before the range."""
