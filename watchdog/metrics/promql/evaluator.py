"""The value of a query at an instant, as Prometheus 2.42 would give it (Debian's promtool is the judge in our tests).

An instant selector sees the newest sample in (t - 5 min, t] unless it is stale; a range is closed on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

from watchdog.core.model import Labels, labels_of
from watchdog.errors import QueryError
from watchdog.metrics.promql import binary, functions
from watchdog.metrics.promql.aggregation import aggregate
from watchdog.metrics.promql.matching import MatchKind
from watchdog.metrics.promql.nodes import (
    Aggregate,
    Binary,
    Call,
    Negate,
    Node,
    Number,
    RangeSelector,
    Selector,
    Subquery,
    Text,
    When,
)
from watchdog.metrics.promql.parser import Query
from watchdog.metrics.promql.range_functions import KEEP_NAME, RANGE_FUNCTIONS, SCALAR_FIRST
from watchdog.metrics.promql.values import Value, Vector, Window, distinct, labels_with_name, without_name
from watchdog.metrics.series import LOOKBACK_SECONDS, SeriesStore

SUBQUERY_STEP_SECONDS = 15.0
"""The step of a subquery that names none: the default evaluation interval."""
MAX_STEPS = 11_000
"""Most steps of one subquery; more would hold up everything else."""
_LOOKBACK = round(LOOKBACK_SECONDS * 1000)

Result = list[tuple[Labels, float]] | float | str


@dataclass(frozen=True, slots=True)
class _Context:
    """Where and when; `at` moves within a subquery, `query_at` does not. Milliseconds."""

    store: SeriesStore
    at: int
    query_at: int

    def shifted(self, when: When) -> int:
        """The time that a selector with these modifiers looks at."""
        at = self.query_at if when.at_query else self.at if when.at is None else when.at
        return at - when.offset


def evaluate(query: Query, store: SeriesStore, at: float) -> Result:
    """The value of `query` at `at` (epoch seconds): a vector as (labels with `__name__` if kept, value), a scalar or a
    string. Raises QueryError if the expression cannot be evaluated over these series."""
    time = round(at * 1000)
    value = _value(query.root, _Context(store, time, time))
    if isinstance(value, list):
        return [(labels_with_name(name, labels), number) for name, labels, number in value]
    return value


def _value(node: Node, context: _Context) -> Value:
    match node:
        case Number(value=number):
            return number
        case Text(value=text):
            return text
        case Selector():
            return _select(node, context)
        case Binary():
            left, right = _value(node.left, context), _value(node.right, context)
            return binary.apply(node.op, left, right, node.matching, node.as_bool)
        case Aggregate():
            param = _value(node.param, context) if node.param is not None else None
            if isinstance(param, list):
                raise QueryError(f"{node.op} takes a scalar or a string first")
            return aggregate(node.op, _vector(node.expr, context), param, node.labels, node.without)
        case Call():
            return _call(node, context)
        case Negate():
            value = _value(node.expr, context)
            if isinstance(value, list):
                return distinct([("", labels, -number) for _, labels, number in value])
            return -_number(value)
        case RangeSelector() | Subquery():
            raise QueryError("a range is no result; put it into a function such as rate")


def _number(value: Value) -> float:
    if isinstance(value, float):
        return value
    raise QueryError("expected a scalar")


def _scalar(node: Node, context: _Context) -> float:
    return _number(_value(node, context))


def _vector(node: Node, context: _Context) -> Vector:
    value = _value(node, context)
    if isinstance(value, list):
        return value
    raise QueryError("expected an instant vector")


def _text(node: Node, context: _Context) -> str:
    value = _value(node, context)
    if isinstance(value, str):
        return value
    raise QueryError("expected a string")


def _select(selector: Selector, context: _Context) -> Vector:
    at = context.shifted(selector.when)
    found = []
    for series in context.store.select(selector.name, selector.matchers):
        sample = series.newest(at, _LOOKBACK)
        if sample is not None:
            found.append((series.name, series.labels, sample[1]))
    return found


def _windows(node: Node, context: _Context) -> list[Window]:
    """The samples that a range or subquery covers, by series; series without any are left out."""
    if isinstance(node, RangeSelector):
        end = context.shifted(node.selector.when)
        start = end - node.range
        windows = []
        for series in context.store.select(node.selector.name, node.selector.matchers):
            times, values = series.between(start, end)
            if times:
                windows.append(Window(series.name, series.labels, times, values, start, end))
        return windows
    if isinstance(node, Subquery):
        return _steps(node, context)
    raise QueryError("expected a range")


def _steps(node: Subquery, context: _Context) -> list[Window]:
    end = context.shifted(node.when)
    start = end - node.range
    step = node.step or round(SUBQUERY_STEP_SECONDS * 1000)
    first = -(-start // step) * step
    if (end - first) // step >= MAX_STEPS:
        raise QueryError(f"a subquery of more than {MAX_STEPS} steps")
    found: dict[tuple[str, Labels], tuple[list[int], list[float]]] = {}
    for at in count(first, step):
        if at > end:
            break
        for name, labels, value in _as_vector(_value(node.expr, replace(context, at=at))):
            times, values = found.setdefault((name, labels), ([], []))
            times.append(at)
            values.append(value)
    return [Window(*key, times, values, start, end) for key, (times, values) in found.items()]


def _as_vector(value: Value) -> Vector:
    return value if isinstance(value, list) else [("", (), _number(value))]


def _call(node: Call, context: _Context) -> Value:
    name, args = node.function, node.args
    special = _SPECIAL.get(name)
    if special is not None:
        return special(args, context)
    if name in RANGE_FUNCTIONS:
        return _over_range(name, args, context)
    if name in functions.CALENDAR:
        field = functions.CALENDAR[name]
        if not args:
            return [("", (), field(context.at / 1000))]
        return distinct([("", labels, field(value)) for _, labels, value in _vector(args[0], context)])
    if name in functions.WITH_SCALARS:
        vector = _vector(args[0], context)
        result = functions.WITH_SCALARS[name](vector, *(_scalar(arg, context) for arg in args[1:]))
        return result if name in {"sort", "sort_desc"} else distinct(result)
    function = functions.ELEMENTWISE[name]
    return distinct([("", labels, function(value)) for _, labels, value in _vector(args[0], context)])


def _over_range(name: str, args: tuple[Node, ...], context: _Context) -> Vector:
    range_node, *scalars = reversed(args) if name in SCALAR_FIRST else args
    scalar = _scalar(scalars[0], context) if scalars else 0.0
    function = RANGE_FUNCTIONS[name]
    found = []
    for window in _windows(range_node, context):
        value = function(window, scalar, context.at)
        if value is not None:
            found.append((window.name if name in KEEP_NAME else "", window.labels, value))
    return distinct(found)


def _absent_labels(node: Node) -> Labels:
    """The labels that a selector fixes: one `=` matcher on a label that no other matcher names."""
    selector = node.selector if isinstance(node, RangeSelector) else node
    if not isinstance(selector, Selector):
        return ()
    fixed: dict[str, str] = {}
    unclear = set()
    for matcher in selector.matchers:
        if matcher.kind is MatchKind.EQUAL and matcher.label not in fixed:
            fixed[matcher.label] = matcher.value
        else:
            unclear.add(matcher.label)
    return labels_of({label: value for label, value in fixed.items() if label not in unclear | {"__name__"}})


def _absent(args: tuple[Node, ...], context: _Context) -> Value:
    return [] if _vector(args[0], context) else [("", _absent_labels(args[0]), 1.0)]


def _absent_over_time(args: tuple[Node, ...], context: _Context) -> Value:
    return [] if _windows(args[0], context) else [("", _absent_labels(args[0]), 1.0)]


def _timestamp(args: tuple[Node, ...], context: _Context) -> Value:
    """The time of each sample where the argument is a selector, else the time of evaluation."""
    selector = args[0]
    if not isinstance(selector, Selector):
        return distinct([("", labels, context.at / 1000) for _, labels, _ in _vector(selector, context)])
    at = context.shifted(selector.when)
    found = []
    for series in context.store.select(selector.name, selector.matchers):
        sample = series.newest(at, _LOOKBACK)
        if sample is not None:
            found.append(("", series.labels, sample[0] / 1000))
    return distinct(found)


def _to_scalar(args: tuple[Node, ...], context: _Context) -> Value:
    vector = _vector(args[0], context)
    return vector[0][2] if len(vector) == 1 else math.nan


def _label_replace(args: tuple[Node, ...], context: _Context) -> Value:
    target, template, source, pattern = (_text(arg, context) for arg in args[1:])
    return functions.label_replace(_vector(args[0], context), target, template, source, pattern)


def _label_join(args: tuple[Node, ...], context: _Context) -> Value:
    target, separator, *sources = (_text(arg, context) for arg in args[1:])
    return functions.label_join(_vector(args[0], context), target, separator, *sources)


def _histogram_quantile(args: tuple[Node, ...], context: _Context) -> Value:
    return functions.histogram_quantile(_scalar(args[0], context), without_name(_vector(args[1], context)))


_SPECIAL: dict[str, Callable[[tuple[Node, ...], _Context], Value]] = {
    "absent": _absent,
    "absent_over_time": _absent_over_time,
    "histogram_quantile": _histogram_quantile,
    "label_join": _label_join,
    "label_replace": _label_replace,
    "pi": lambda _, __: math.pi,
    "scalar": _to_scalar,
    "time": lambda _, context: context.at / 1000,
    "timestamp": _timestamp,
    "vector": lambda args, context: [("", (), _scalar(args[0], context))],
}
