"""The values of expressions while they are evaluated, and the arithmetic of IEEE 754 where Python would raise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from watchdog.core.model import Labels
from watchdog.errors import QueryError

Element = tuple[str, Labels, float]
"""Metric name (empty when an operation dropped it), labels without `__name__`, value."""

Vector = list[Element]
Value = Vector | float | str


class Window(NamedTuple):
    """The samples of one series in a range, with the range's bounds; times in milliseconds."""

    name: str
    labels: Labels
    times: Sequence[int]
    values: list[float]
    start: int
    end: int


def without_name(vector: Vector) -> Vector:
    """The same elements, nameless."""
    return [("", labels, value) for _, labels, value in vector]


def distinct(vector: Vector) -> Vector:
    """`vector` itself. Raises QueryError if two elements have the same name and labels."""
    if len({(name, labels) for name, labels, _ in vector}) != len(vector):
        raise QueryError("vector cannot contain metrics with the same labelset")
    return vector


def labels_with_name(name: str, labels: Labels) -> Labels:
    """All labels in order, `__name__` among them if there is a name."""
    return tuple(sorted((*labels, ("__name__", name)))) if name else labels


def divide(left: float, right: float) -> float:
    """The quotient; a division by zero gives an infinity or NaN."""
    if right:
        return left / right
    if not left or left != left or right != right:
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


def modulo(left: float, right: float) -> float:
    """The remainder with the sign of `left`; NaN where it is undefined."""
    if math.isinf(left) or not right:
        return math.nan
    return math.fmod(left, right)


def power(base: float, exponent: float) -> float:
    """`base` to the `exponent`; an infinity where it overflows, NaN where it is not real."""
    odd = exponent.is_integer() and exponent % 2 == 1
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return -math.inf if base < 0 and odd else math.inf
    except ValueError:
        if base == 0:
            return math.copysign(math.inf, base) if odd else math.inf
        return math.nan


class Sum:
    """A running sum with Neumaier's compensation, as Prometheus sums over time."""

    __slots__ = ("_lost", "_sum")

    def __init__(self) -> None:
        self._sum = 0.0
        self._lost = 0.0

    def add(self, value: float) -> None:
        """Adds one summand."""
        total = self._sum + value
        if abs(self._sum) >= abs(value):
            self._lost += (self._sum - total) + value
        else:
            self._lost += (value - total) + self._sum
        self._sum = total

    @property
    def raw(self) -> float:
        """The sum without its compensation."""
        return self._sum

    @property
    def value(self) -> float:
        """The compensated sum."""
        return self._sum + self._lost


def quantile(fraction: float, values: list[float]) -> float:
    """The quantile by linear interpolation between closest ranks; ±Inf outside of [0, 1], NaN for no values."""
    if not values or fraction != fraction:
        return math.nan
    if fraction < 0:
        return -math.inf
    if fraction > 1:
        return math.inf
    ordered = sorted(values, key=lambda value: (value == value, value))
    rank = fraction * (len(ordered) - 1)
    lower = math.floor(rank)
    upper = min(len(ordered) - 1, lower + 1)
    weight = rank - lower
    return ordered[lower] * (1 - weight) + ordered[upper] * weight


def format_float(value: float) -> str:
    """The shortest decimal text that reads back as `value`, never with an exponent (Go's format `f`)."""
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    if "e" not in text:
        return text.removesuffix(".0")
    mantissa, _, exponent = text.partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits, point = whole + fraction, len(whole) + int(exponent)
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if point >= len(digits):
        return sign + digits + "0" * (point - len(digits))
    return f"{sign}{digits[:point]}.{digits[point:]}"
