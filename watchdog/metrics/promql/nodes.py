"""The tree of a parsed expression. Frozen; all durations and times in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

from watchdog.metrics.promql.matching import LabelMatcher


@dataclass(frozen=True, slots=True)
class Number:
    """A scalar literal."""

    value: float


@dataclass(frozen=True, slots=True)
class Text:
    """A string literal."""

    value: str


@dataclass(frozen=True, slots=True)
class When:
    """The modifiers `offset` and `@`. `at_query` stands for `@ start()` and `@ end()`: the time of the whole query."""

    offset: int = 0
    at: int | None = None
    at_query: bool = False


@dataclass(frozen=True, slots=True)
class Selector:
    """An instant selector. An empty `name` means any; matchers on `__name__` are among the matchers then."""

    name: str
    matchers: tuple[LabelMatcher, ...]
    when: When


@dataclass(frozen=True, slots=True)
class RangeSelector:
    """A selector with a range."""

    selector: Selector
    range: int


@dataclass(frozen=True, slots=True)
class Subquery:
    """An expression evaluated every `step` over `range`; a step of 0 is the default one."""

    expr: Node
    range: int
    step: int
    when: When


@dataclass(frozen=True, slots=True)
class Call:
    """A function and its arguments."""

    function: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregation over groups: `by` these labels, or by all but these (`without`)."""

    op: str
    expr: Node
    param: Node | None
    labels: tuple[str, ...]
    without: bool


@dataclass(frozen=True, slots=True)
class Matching:
    """How the two sides of a vector operation find each other.

    `many` is `left` for group_left, `right` for group_right, else empty; `include` are the labels copied from the side
    that has one.
    """

    on: bool
    labels: tuple[str, ...]
    many: str = ""
    include: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Binary:
    """An arithmetic, comparing or set operation. `as_bool`: 0 or 1 instead of filtering."""

    op: str
    left: Node
    right: Node
    matching: Matching
    as_bool: bool


@dataclass(frozen=True, slots=True)
class Negate:
    """Unary minus."""

    expr: Node


Node = Number | Text | Selector | RangeSelector | Subquery | Call | Aggregate | Binary | Negate
