"""Aggregations of a vector into groups."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from watchdog.core.model import Labels
from watchdog.errors import QueryError
from watchdog.metrics.promql.values import Element, Vector, format_float, quantile

_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def _average(values: list[float]) -> float:
    mean = 0.0
    for count, value in enumerate(values, start=1):
        if math.isinf(mean):
            if math.isinf(value) and (mean > 0) == (value > 0):
                continue
            if math.isfinite(value):
                continue
        mean += value / count - mean / count
    return mean


def _total(values: list[float]) -> float:
    total = values[0]
    for value in values[1:]:
        total += value
    return total


def _least(values: list[float]) -> float:
    best = values[0]
    for value in values:
        if value < best or best != best:
            best = value
    return best


def _greatest(values: list[float]) -> float:
    best = values[0]
    for value in values:
        if value > best or best != best:
            best = value
    return best


def _variance(values: list[float]) -> float:
    mean = squares = 0.0
    for count, value in enumerate(values, start=1):
        delta = value - mean
        mean += delta / count
        squares += delta * (value - mean)
    return squares / len(values)


AGGREGATIONS: dict[str, Callable[[list[float]], float]] = {
    "sum": _total,
    "avg": _average,
    "min": _least,
    "max": _greatest,
    "count": lambda values: float(len(values)),
    "group": lambda _: 1.0,
    "stddev": lambda values: math.sqrt(_variance(values)),
    "stdvar": _variance,
}
WITH_SCALAR = frozenset({"topk", "bottomk", "quantile"})
WITH_TEXT = frozenset({"count_values"})


def _key(element: Element, labels: frozenset[str], without: bool) -> tuple[str, Labels]:
    name, own, _ = element
    if without:
        return "", tuple(pair for pair in own if pair[0] not in labels)
    return (name if "__name__" in labels else ""), tuple(pair for pair in own if pair[0] in labels)


def aggregate(op: str, vector: Vector, param: float | str | None, labels: tuple[str, ...], without: bool) -> Vector:
    """`vector` in groups `by` the labels, or `without` them. Raises QueryError for a parameter that cannot be."""
    if op == "count_values":
        return _count_values(vector, str(param), labels, without)
    chosen = frozenset(labels)
    groups: dict[tuple[str, Labels], list[Element]] = {}
    for element in vector:
        groups.setdefault(_key(element, chosen, without), []).append(element)
    if op in {"topk", "bottomk"}:
        limit = _limit(op, param)
        return [element for members in groups.values() for element in _ranked(members, op == "topk")[:limit]]
    if op == "quantile":
        fraction = float(param or 0.0)
        return [(*key, quantile(fraction, [value for *_, value in members])) for key, members in groups.items()]
    function = AGGREGATIONS[op]
    return [(*key, function([value for *_, value in members])) for key, members in groups.items()]


def _limit(op: str, param: float | str | None) -> int:
    limit = float(param or 0.0)
    if not -(2**63) <= limit < 2**63:
        raise QueryError(f"{op}: {limit} is not a number of elements")
    return max(0, int(limit))


def _ranked(members: list[Element], highest_first: bool) -> list[Element]:
    """Best first; NaN last in either direction."""
    sign = -1 if highest_first else 1
    return sorted(members, key=lambda element: (element[2] != element[2], sign * element[2]))


def _count_values(vector: Vector, label: str, labels: tuple[str, ...], without: bool) -> Vector:
    if not _LABEL_NAME.fullmatch(label):
        raise QueryError(f"count_values: {label!r} is not a label name")
    chosen = frozenset(labels) - {label} if without else frozenset(labels) | {label}
    counted = [
        (name, tuple(sorted((*(pair for pair in own if pair[0] != label), (label, format_float(value))))), 1.0)
        for name, own, value in vector
    ]
    return aggregate("count", counted, None, tuple(chosen), without)
