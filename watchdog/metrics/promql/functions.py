"""Functions over instant vectors and scalars, by the kind of what they take."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

from watchdog.core.model import Labels, labels_of
from watchdog.errors import QueryError
from watchdog.metrics.promql.matching import replacer
from watchdog.metrics.promql.values import Vector, distinct, divide

_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def _guarded(function: Callable[[float], float], overflow: float = math.inf) -> Callable[[float], float]:
    """`function` with NaN outside of its domain and `overflow` beyond the range of a double."""

    def call(value: float) -> float:
        try:
            return float(function(value))
        except ValueError:
            return math.nan
        except OverflowError:
            return overflow

    return call


def _logarithm(function: Callable[[float], float]) -> Callable[[float], float]:
    inner = _guarded(function)
    return lambda value: -math.inf if value == 0 else inner(value)


def _whole(function: Callable[[float], int]) -> Callable[[float], float]:
    return lambda value: float(function(value)) if math.isfinite(value) else value


def _sign(value: float) -> float:
    if value < 0:
        return -1.0
    return 1.0 if value > 0 else value


def _hyperbolic_sine(value: float) -> float:
    return _guarded(math.sinh, math.copysign(math.inf, value))(value)


def _area_tangent(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) == 1 else _guarded(math.atanh)(value)


ELEMENTWISE: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "ceil": _whole(math.ceil),
    "floor": _whole(math.floor),
    "exp": _guarded(math.exp),
    "ln": _logarithm(math.log),
    "log2": _logarithm(math.log2),
    "log10": _logarithm(math.log10),
    "sqrt": _guarded(math.sqrt),
    "sgn": _sign,
    "sin": _guarded(math.sin),
    "cos": _guarded(math.cos),
    "tan": _guarded(math.tan),
    "asin": _guarded(math.asin),
    "acos": _guarded(math.acos),
    "atan": math.atan,
    "sinh": _hyperbolic_sine,
    "cosh": _guarded(math.cosh),
    "tanh": math.tanh,
    "asinh": math.asinh,
    "acosh": _guarded(math.acosh),
    "atanh": _area_tangent,
    "deg": lambda value: value * 180 / math.pi,
    "rad": lambda value: value * math.pi / 180,
}


def _calendar(field: Callable[[datetime], int]) -> Callable[[float], float]:
    def call(value: float) -> float:
        try:
            return float(field(datetime.fromtimestamp(int(value), UTC)))
        except (ValueError, OverflowError, OSError):
            return math.nan

    return call


def _days_in_month(when: datetime) -> int:
    following = when.replace(year=when.year + 1, month=1, day=1) if when.month == 12 else None
    following = following or when.replace(month=when.month + 1, day=1)
    return (following - when.replace(day=1)).days


CALENDAR: dict[str, Callable[[float], float]] = {
    "minute": _calendar(lambda when: when.minute),
    "hour": _calendar(lambda when: when.hour),
    "day_of_week": _calendar(lambda when: when.isoweekday() % 7),
    "day_of_month": _calendar(lambda when: when.day),
    "day_of_year": _calendar(lambda when: when.timetuple().tm_yday),
    "days_in_month": _calendar(_days_in_month),
    "month": _calendar(lambda when: when.month),
    "year": _calendar(lambda when: when.year),
}
"""All in UTC; without an argument they take the time of evaluation."""


def lower_of(left: float, right: float) -> float:
    """The minimum; NaN if either is NaN."""
    return math.nan if left != left or right != right else min(left, right)


def higher_of(left: float, right: float) -> float:
    """The maximum; NaN if either is NaN."""
    return math.nan if left != left or right != right else max(left, right)


def _round(value: float, nearest: float) -> float:
    inverse = divide(1.0, nearest)
    scaled = value * inverse + 0.5
    return divide(float(math.floor(scaled)) if math.isfinite(scaled) else scaled, inverse)


def _each(vector: Vector, function: Callable[[float], float]) -> Vector:
    return [("", labels, function(value)) for _, labels, value in vector]


def _clamp(vector: Vector, lowest: float, highest: float) -> Vector:
    if highest < lowest:
        return []
    return _each(vector, lambda value: higher_of(lowest, lower_of(highest, value)))


WITH_SCALARS: dict[str, Callable[..., Vector]] = {
    "clamp": _clamp,
    "clamp_min": lambda vector, lowest: _each(vector, lambda value: higher_of(lowest, value)),
    "clamp_max": lambda vector, highest: _each(vector, lambda value: lower_of(highest, value)),
    "round": lambda vector, nearest=1.0: _each(vector, lambda value: _round(value, nearest)),
    "sort": lambda vector: sorted(vector, key=lambda element: (element[2] != element[2], element[2])),
    "sort_desc": lambda vector: sorted(vector, key=lambda element: (element[2] != element[2], -element[2])),
}


@lru_cache(maxsize=128)
def _replacer(pattern: str, template: str) -> Callable[[str], str | None]:
    return replacer(pattern, template)


def label_replace(vector: Vector, target: str, template: str, source: str, pattern: str) -> Vector:
    """Sets the label `target` to `template` where the label `source` matches `pattern`; an empty result removes it."""
    if not _LABEL_NAME.fullmatch(target):
        raise QueryError(f"label_replace: {target!r} is not a label name")
    replace = _replacer(pattern, template)
    return distinct([_relabelled(element, target, replace(_label(element, source))) for element in vector])


def label_join(vector: Vector, target: str, separator: str, *sources: str) -> Vector:
    """Sets the label `target` to the values of the labels `sources`, joined."""
    for label in (target, *sources):
        if not _LABEL_NAME.fullmatch(label):
            raise QueryError(f"label_join: {label!r} is not a label name")
    return distinct(
        [_relabelled(one, target, separator.join(_label(one, source) for source in sources)) for one in vector]
    )


def _label(element: tuple[str, Labels, float], label: str) -> str:
    return element[0] if label == "__name__" else dict(element[1]).get(label, "")


def _relabelled(element: tuple[str, Labels, float], label: str, value: str | None) -> tuple[str, Labels, float]:
    name, labels, number = element
    if value is None:
        return element
    if label == "__name__":
        return value, labels, number
    return name, labels_of(dict(labels), **{label: value}), number


def histogram_quantile(fraction: float, vector: Vector) -> Vector:
    """The quantile of each histogram among the elements: groups of cumulative counts by their label `le`."""
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for _, labels, value in vector:
        try:
            bound = float(dict(labels).get("le", ""))
        except ValueError:
            continue
        groups.setdefault(tuple(pair for pair in labels if pair[0] != "le"), []).append((bound, value))
    return [("", labels, _bucket_quantile(fraction, buckets)) for labels, buckets in groups.items()]


def _bucket_quantile(fraction: float, buckets: list[tuple[float, float]]) -> float:
    if fraction != fraction:
        return math.nan
    if not 0 <= fraction <= 1:
        return math.copysign(math.inf, fraction - 0.5)
    bounds, counts = _cumulative(buckets)
    if bounds[-1] != math.inf or len(bounds) < 2 or not counts[-1]:
        return math.nan
    rank = fraction * counts[-1]
    index = next((i for i, count in enumerate(counts[:-1]) if count >= rank), len(counts) - 1)
    if index == len(counts) - 1:
        return bounds[-2]
    if index == 0:
        return bounds[0] if bounds[0] <= 0 else bounds[0] * (rank / counts[0])
    low, below = bounds[index - 1], counts[index - 1]
    return low + (bounds[index] - low) * divide(rank - below, counts[index] - below)


def _cumulative(buckets: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Bounds in order and counts that never fall: equal bounds are added up, and a count below its predecessor, which
    scraping between two increments can give, is lifted to it."""
    bounds: list[float] = []
    counts: list[float] = []
    for bound, count in sorted(buckets, key=lambda bucket: bucket[0]):
        if bounds and bounds[-1] == bound:
            counts[-1] += count
        else:
            bounds.append(bound)
            counts.append(count)
    for i in range(1, len(counts)):
        counts[i] = max(counts[i], counts[i - 1])
    return bounds, counts
