"""From the text of an expression to our tree: `promql-parser` reads the grammar and checks the types.

What we do not evaluate fails here, with its name, and never while a rule runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal

import promql_parser as grammar

from watchdog.errors import QueryError
from watchdog.metrics.promql import aggregation, functions, range_functions
from watchdog.metrics.promql.binary import ARITHMETIC, COMPARISON, SETS
from watchdog.metrics.promql.matching import LabelMatcher, MatchKind, full_match, replacer
from watchdog.metrics.promql.nodes import (
    Aggregate,
    Binary,
    Call,
    Matching,
    Negate,
    Node,
    Number,
    RangeSelector,
    Selector,
    Subquery,
    Text,
    When,
)

ResultType = Literal["vector", "scalar", "string", "matrix"]
MAX_QUERY = 20_000
MAX_DEPTH = 50
MAX_OPERATORS = 300
"""Beyond these the parser, and then our own recursion, would run out of stack; no rule for people comes near."""
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|`[^`]*`")
_OPERATOR = re.compile(r"[-+*/%^]|[<>=!]=?|\b(?:and|or|unless|atan2)\b", re.IGNORECASE)

_KINDS = {
    "MatchOp.Equal": MatchKind.EQUAL,
    "MatchOp.NotEqual": MatchKind.NOT_EQUAL,
    "MatchOp.Re": MatchKind.MATCHES,
    "MatchOp.NotRe": MatchKind.NOT_MATCHES,
}
_MANY = {"VectorMatchCardinality.ManyToOne": "left", "VectorMatchCardinality.OneToMany": "right"}
SCALAR_FUNCTIONS = frozenset({"time", "pi", "scalar"})
OTHER_FUNCTIONS = frozenset(
    {"absent", "absent_over_time", "histogram_quantile", "label_join", "label_replace", "timestamp", "vector"}
)
FUNCTIONS = (
    frozenset(range_functions.RANGE_FUNCTIONS)
    | frozenset(functions.ELEMENTWISE)
    | frozenset(functions.CALENDAR)
    | frozenset(functions.WITH_SCALARS)
    | SCALAR_FUNCTIONS
    | OTHER_FUNCTIONS
)
AGGREGATIONS = frozenset(aggregation.AGGREGATIONS) | aggregation.WITH_SCALAR | aggregation.WITH_TEXT
OPERATORS = frozenset(ARITHMETIC) | frozenset(COMPARISON) | SETS


@dataclass(frozen=True)
class Query:
    """A parsed expression."""

    text: str
    root: Node

    @cached_property
    def names(self) -> frozenset[str]:
        """The metric names that it reads."""
        return frozenset(selector.name for selector in _selectors(self.root) if selector.name)

    @cached_property
    def reads_any(self) -> bool:
        """Whether some selector names no metric, so that any sample may change the result."""
        return any(not selector.name for selector in _selectors(self.root))

    @cached_property
    def reach(self) -> float:
        """How many seconds before its own time the measurements can lie that it looks at: its longest range, with the
        subqueries around it and offsets. 0 if it reads only what is there now."""
        return _reach(self.root) / 1000

    @cached_property
    def type(self) -> ResultType:
        """What evaluation gives; a `matrix` can be parsed but is no result of a rule."""
        return _type(self.root)


def parse(text: str) -> Query:
    """The query of `text`. Raises QueryError with a reason of one line."""
    _refuse_too_large(text)
    try:
        return Query(text, _node(grammar.parse(text)))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise QueryError(f"{reason}: {_shortened(text)}") from None
    except BaseException as error:
        # The grammar is compiled Rust; what it calls a panic is no Exception, and must not end the daemon.
        if type(error).__name__ != "PanicException":
            raise
        raise QueryError(f"the parser gives up: {_shortened(text)}") from None


def _shortened(text: str) -> str:
    """On one line, for an error."""
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."


def _refuse_too_large(text: str) -> None:
    if len(text) > MAX_QUERY:
        raise QueryError(f"the expression is longer than {MAX_QUERY} characters")
    bare = _QUOTED.sub("", text)
    if len(_OPERATOR.findall(bare)) > MAX_OPERATORS:
        raise QueryError(f"the expression has more than {MAX_OPERATORS} operators")
    depth = 0
    for character in bare:
        depth += (character in "([{") - (character in ")]}")
        if depth > MAX_DEPTH:
            raise QueryError(f"the expression is nested deeper than {MAX_DEPTH}")


def _node(tree: Any) -> Node:
    match tree:
        case grammar.NumberLiteral():
            return Number(float(tree.val))
        case grammar.StringLiteral():
            return Text(tree.val)
        case grammar.ParenExpr():
            return _node(tree.expr)
        case grammar.UnaryExpr():
            return Negate(_node(tree.expr))
        case grammar.VectorSelector():
            return _selector(tree)
        case grammar.MatrixSelector():
            return RangeSelector(_selector(tree.vector_selector), _milliseconds(tree.range))
        case grammar.SubqueryExpr():
            return Subquery(_node(tree.expr), _milliseconds(tree.range), _milliseconds(tree.step), _when(tree))
        case grammar.Call():
            return _call(tree)
        case grammar.AggregateExpr():
            return _aggregate(tree)
        case grammar.BinaryExpr():
            return _binary(tree)
        case _:
            raise QueryError(f"{type(tree).__name__} is not supported")


def _milliseconds(delta: timedelta | None) -> int:
    return round(delta / timedelta(milliseconds=1)) if delta else 0


def _when(tree: Any) -> When:
    if tree.at is None:
        return When(_milliseconds(tree.offset))
    if str(tree.at.type) == "AtModifierType.At":
        return When(_milliseconds(tree.offset), at=round(tree.at.at.timestamp() * 1000))
    return When(_milliseconds(tree.offset), at_query=True)


def _selector(tree: Any) -> Selector:
    if tree.matchers.or_matchers:
        raise QueryError("`or` between matchers is not supported")
    matchers = [LabelMatcher(one.name, _KINDS[str(one.op)], one.value) for one in tree.matchers.matchers]
    name = tree.name or ""
    for one in matchers:
        if one.kind in {MatchKind.MATCHES, MatchKind.NOT_MATCHES}:
            full_match(one.value)
        if not name and one.label == "__name__" and one.kind is MatchKind.EQUAL:
            name = one.value
    return Selector(name, tuple(matchers), _when(tree))


def _call(tree: Any) -> Call:
    name = tree.func.name
    if name not in FUNCTIONS:
        raise QueryError(f"function {name!r} is not supported")
    args = tuple(_node(arg) for arg in tree.args)
    if name == "label_replace":
        match args[2:]:
            case [Text(template), _, Text(pattern)] if _is_pattern(pattern):
                replacer(pattern, template)
            case _:
                pass
    return Call(name, args)


def _is_pattern(pattern: str) -> bool:
    """Whether the engine knows the pattern; if not, that is found when the rule runs, as in Prometheus."""
    try:
        full_match(pattern)
    except QueryError:
        return False
    return True


def _aggregate(tree: Any) -> Aggregate:
    op = str(tree.op)
    if op not in AGGREGATIONS:
        raise QueryError(f"aggregation {op!r} is not supported")
    param = _node(tree.param) if tree.param is not None else None
    labels = tuple(tree.modifier.labels) if tree.modifier else ()
    without = tree.modifier is not None and str(tree.modifier.type) == "AggModifierType.Without"
    return Aggregate(op, _node(tree.expr), param, labels, without)


def _binary(tree: Any) -> Binary:
    op = str(tree.op)
    if op not in OPERATORS:
        raise QueryError(f"operator {op!r} is not supported")
    modifier = tree.modifier
    matching, as_bool = Matching(on=False, labels=()), False
    if modifier is not None:
        fill = modifier.fill_values
        if fill is not None and (fill.lhs is not None or fill.rhs is not None):
            raise QueryError("fill modifiers are not supported")
        as_bool = bool(modifier.return_bool)
        chosen = modifier.matching
        matching = Matching(
            on=chosen is not None and str(chosen.type) == "LabelModifierType.Include",
            labels=tuple(chosen.labels) if chosen is not None else (),
            many=_MANY.get(str(modifier.card), ""),
            include=tuple(modifier.group_labels or ()),
        )
    return Binary(op, _node(tree.lhs), _node(tree.rhs), matching, as_bool)


def _children(node: Node) -> tuple[Node, ...]:
    match node:
        case RangeSelector(selector=selector):
            return (selector,)
        case Subquery(expr=expr) | Negate(expr=expr):
            return (expr,)
        case Aggregate(expr=expr, param=param):
            return (expr,) if param is None else (expr, param)
        case Call(args=args):
            return args
        case Binary(left=left, right=right):
            return left, right
        case _:
            return ()


def _reach(node: Node) -> int:
    own = 0
    match node:
        case Selector(when=when):
            own = max(0, when.offset)
        case RangeSelector(range=span):
            own = span
        case Subquery(range=span, when=when):
            own = span + max(0, when.offset)
    return own + max(map(_reach, _children(node)), default=0)


def _selectors(node: Node) -> Iterator[Selector]:
    if isinstance(node, Selector):
        yield node
    for child in _children(node):
        yield from _selectors(child)


def _type(node: Node) -> ResultType:
    match node:
        case Number():
            return "scalar"
        case Text():
            return "string"
        case RangeSelector() | Subquery():
            return "matrix"
        case Call(function=function) if function in SCALAR_FUNCTIONS:
            return "scalar"
        case Negate(expr=expr):
            return _type(expr)
        case Binary(left=left, right=right) if _type(left) == _type(right) == "scalar":
            return "scalar"
        case _:
            return "vector"
