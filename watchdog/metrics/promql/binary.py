"""Operations on two operands: arithmetic, comparison, sets, and how the elements of two vectors find each other."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

from watchdog.core.model import Labels, labels_of
from watchdog.errors import QueryError
from watchdog.metrics.promql.nodes import Matching
from watchdog.metrics.promql.values import (
    Element,
    Value,
    Vector,
    distinct,
    divide,
    labels_with_name,
    modulo,
    power,
)

ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": divide,
    "%": modulo,
    "^": power,
    "atan2": math.atan2,
}
COMPARISON: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
SETS = frozenset({"and", "or", "unless"})
_NAMED = frozenset({"atan2"})
"""Arithmetic after which elements keep their names; Prometheus 2.42 overlooks this operator."""

Signature = tuple[str, Labels]


def apply(op: str, left: Value, right: Value, matching: Matching, as_bool: bool) -> Value:
    """The result of one operation. Raises QueryError where elements cannot be matched as the modifiers ask."""
    if isinstance(left, str) or isinstance(right, str):
        raise QueryError(f"operator {op} does not take a string")
    if isinstance(left, float) and isinstance(right, float):
        return ARITHMETIC[op](left, right) if op in ARITHMETIC else float(COMPARISON[op](left, right))
    if isinstance(left, list) and isinstance(right, list):
        if op in SETS:
            return _combine(op, left, right, matching)
        return _match(op, left, right, matching, as_bool)
    if isinstance(left, list) and isinstance(right, float):
        number = right
        return distinct(_with_scalar(op, left, lambda value: (value, number), as_bool))
    if isinstance(left, float) and isinstance(right, list):
        number = left
        return distinct(_with_scalar(op, right, lambda value: (number, value), as_bool))
    raise QueryError(f"operator {op} does not take these operands")


def _with_scalar(op: str, vector: Vector, pair: Callable[[float], tuple[float, float]], as_bool: bool) -> Vector:
    if op in ARITHMETIC:
        compute = ARITHMETIC[op]
        return [(name if op in _NAMED else "", labels, compute(*pair(value))) for name, labels, value in vector]
    holds = COMPARISON[op]
    if as_bool:
        return [("", labels, float(holds(*pair(value)))) for _, labels, value in vector]
    return [element for element in vector if holds(*pair(element[2]))]


def _signer(matching: Matching) -> Callable[[Element], Signature]:
    """What of an element must be equal on both sides."""
    chosen = frozenset(matching.labels)
    if matching.on:
        named = "__name__" in chosen
        return lambda element: (element[0] if named else "", tuple(p for p in element[1] if p[0] in chosen))
    if not chosen:
        return lambda element: ("", element[1])
    return lambda element: ("", tuple(p for p in element[1] if p[0] not in chosen))


def _combine(op: str, left: Vector, right: Vector, matching: Matching) -> Vector:
    sign = _signer(matching)
    if op == "or":
        there = {sign(element) for element in left}
        return [*left, *(element for element in right if sign(element) not in there)]
    there = {sign(element) for element in right}
    return [element for element in left if (sign(element) in there) == (op == "and")]


def _match(op: str, left: Vector, right: Vector, matching: Matching, as_bool: bool) -> Vector:
    if not left or not right:
        return []
    sign = _signer(matching)
    many, one = (right, left) if matching.many == "right" else (left, right)
    side = "left" if matching.many == "right" else "right"
    partners: dict[Signature, Element] = {}
    for element in one:
        if partners.setdefault(sign(element), element) is not element:
            raise QueryError(f"found duplicate series for the match group {_shown(sign(element))} on the {side} side")
    found: Vector = []
    seen: set[tuple[Signature, str, Labels]] = set()
    compute, holds = ARITHMETIC.get(op), COMPARISON.get(op)
    keep_name = op in _NAMED or (compute is None and not as_bool)
    for element in many:
        signature = sign(element)
        partner = partners.get(signature)
        if partner is None:
            continue
        operands = (partner[2], element[2]) if matching.many == "right" else (element[2], partner[2])
        if compute is not None:
            value = compute(*operands)
        else:
            holding = holds is not None and holds(*operands)
            if not holding and not as_bool:
                continue
            value = float(holding) if as_bool else operands[0]
        name, labels = _result_labels(element, partner, matching, keep_name)
        key = (signature, name, labels) if matching.many else (signature, "", ())
        if key in seen:
            what = "grouping labels must ensure unique matches" if matching.many else "many-to-one must be explicit"
            raise QueryError(f"multiple matches for labels {_shown(signature)}: {what}")
        seen.add(key)
        found.append((name, labels, value))
    return distinct(found)


def _result_labels(element: Element, partner: Element, matching: Matching, keep_name: bool) -> tuple[str, Labels]:
    name, labels, _ = element
    if not keep_name:
        name = ""
    if not matching.many:
        chosen = frozenset(matching.labels)
        labels = tuple(pair for pair in labels if (pair[0] in chosen) == matching.on)
        if (matching.on and "__name__" not in chosen) or (not matching.on and "__name__" in chosen):
            name = ""
    if matching.include:
        theirs = dict(partner[1])
        labels = labels_of(dict(labels), **{label: theirs.get(label, "") for label in matching.include})
        if "__name__" in matching.include:
            name = partner[0]
            labels = tuple(pair for pair in labels if pair[0] != "__name__")
    return name, labels


def _shown(signature: Signature) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels_with_name(*signature)) + "}"
