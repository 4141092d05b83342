"""What of PromQL the judge in tests/conformance cannot see: refusals, bounds, what a query says of itself."""

from __future__ import annotations

import time

import pytest

from watchdog.core.model import Sample, labels_of
from watchdog.errors import QueryError
from watchdog.metrics.promql import evaluate, parse
from watchdog.metrics.promql.matching import full_match, replacer
from watchdog.metrics.promql.values import format_float
from watchdog.metrics.series import SeriesStore


@pytest.mark.parametrize(
    ("expr", "reason"),
    [
        ('sort_by_label(x, "a")', "function 'sort_by_label' is not supported"),
        ("histogram_count(x)", "function 'histogram_count' is not supported"),
        ("info(x)", "function 'info' is not supported"),
        ("holt_winters(x[5m], 0.5, 0.5)", "holt_winters"),
        ("limitk(1, x)", "aggregation 'limitk' is not supported"),
        ('{a="1" or b="2"}', "`or` between matchers is not supported"),
        ('x{a=~"(?=y)"}', "illegal regex"),
        ("x" * 30_000, "longer than 20000 characters"),
        ('x{a=~"' + "y" * 1_500 + '"}', "longer than 1000 characters"),
        ("(" * 51 + "1" + ")" * 51, "nested deeper than 50"),
        ("abs(" * 9_000, "nested deeper than 50|longer than"),
        ("-" * 9_000 + "1", "more than 300 operators"),
        ("1" + " or 1" * 301, "more than 300 operators"),
        ("x @ -8", "the parser gives up"),
        ('label_replace(x, "a", "$1", "b", "(a+)+")', "repeats a group that repeats"),
    ],
)  # fmt: skip
def test_what_we_do_not_evaluate_fails_at_load_by_name(expr: str, reason: str) -> None:
    """An unsupported function, aggregation or pattern is refused when the rule is read, in one line."""
    with pytest.raises(QueryError, match=reason) as refusal:
        parse(expr)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("expr", "names", "reads_any", "kind"),
    [
        ("sum(rate(a[5m])) / b > 1 unless on () absent(c offset 5m)", {"a", "b", "c"}, False, "vector"),
        ('{__name__="a"} or {job="x"}', {"a"}, True, "vector"),
        ("max_over_time(sum(a)[5m:1m])", {"a"}, False, "vector"),
        ("topk(scalar(a), b)", {"a", "b"}, False, "vector"),
        ("time() + 1", set(), False, "scalar"),
        ("-scalar(a)", {"a"}, False, "scalar"),
        ('"x"', set(), False, "string"),
        ("a[5m]", {"a"}, False, "matrix"),
        ("1 + vector(1)", set(), False, "vector"),
    ],
)
def test_a_query_knows_what_it_reads_and_gives(expr: str, names: set[str], reads_any: bool, kind: str) -> None:
    """The names in selectors at any depth, and the type of the result."""
    query = parse(expr)
    assert (query.names, query.reads_any, query.type) == (names, reads_any, kind)


def test_a_hostile_pattern_costs_no_time() -> None:
    """A pattern that takes a backtracking engine centuries is matched in milliseconds."""
    began = time.perf_counter()
    assert not full_match("(a*)*(a|aa)+b(.*.*.*)*c")("a" * 20_000)
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize("pattern", ["(a|b)+", "(a+)*", "((a*)b){2,}", "(?:x|y)*z"])
def test_a_pattern_that_could_explode_is_not_split_into_groups(pattern: str) -> None:
    """A repeated group that repeats or chooses is refused where groups are needed."""
    with pytest.raises(QueryError, match="repeats a group"):
        replacer(pattern, "$1")


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [("a|b", "ab", False), ("a|b", "b", True), ("a.c", "abc", True), ("a.c", "a\nc", False), ("", "", True),
     ("(?i)ABC", "abc", True), ("a$|b", "a", True), (r"\d+", "12", True), ("a|", "", True), ("x", "x\n", False)],
)  # fmt: skip
def test_patterns_match_the_whole_text(pattern: str, text: str, expected: bool) -> None:
    """Matching is anchored at both ends, whatever alternatives there are."""
    assert full_match(pattern)(text) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, "1"), (-0.5, "-0.5"), (1e21, "1" + "0" * 21), (1.5e-7, "0.00000015"),
     (1.25e22, "125" + "0" * 20),
     (float("nan"), "NaN"), (float("-inf"), "-Inf"), (-1e-5, "-0.00001"), (123456789.125, "123456789.125")],
)  # fmt: skip
def test_numbers_as_label_values_have_no_exponent(value: float, expected: str) -> None:
    """count_values writes the shortest plain decimal."""
    assert format_float(value) == expected


def test_the_largest_expressions_still_work() -> None:
    """At the bounds there is stack enough to parse and to evaluate; signs within texts do not count."""
    store = SeriesStore()
    assert evaluate(parse("1" + "+1" * 300), store, 0.0) == 301.0
    assert evaluate(parse("-" * 300 + "1"), store, 0.0) == 1.0
    assert evaluate(parse("(" * 50 + "1" + ")" * 50), store, 0.0) == 1.0
    assert evaluate(parse("abs(" * 49 + "vector(-1)" + ")" * 49), store, 0.0) == [((), 1.0)]
    assert evaluate(parse('x{a="' + "-(" * 400 + '"}'), store, 0.0) == []


def test_a_subquery_is_bounded() -> None:
    """Too many steps are refused before the first is taken."""
    with pytest.raises(QueryError, match="11000 steps"):
        evaluate(parse("max_over_time(vector(1)[30d:1s])"), SeriesStore(), 1e9)


@pytest.mark.parametrize(
    ("expr", "reason"), [("x[5m]", "a range is no result"), ("topk(1e30, x)", "not a number of elements")]
)
def test_what_only_shows_when_it_runs_is_an_error_too(expr: str, reason: str) -> None:
    """Such errors are QueryErrors as well."""
    store = SeriesStore()
    store.ingest([Sample("x", 1.0, labels_of(a="b"))], 10.0)
    with pytest.raises(QueryError, match=reason):
        evaluate(parse(expr), store, 10.0)


def test_the_name_is_among_the_labels_where_it_is_kept() -> None:
    """Results carry `__name__` in the order of labels, and only where Prometheus keeps it."""
    store = SeriesStore()
    store.ingest([Sample("x", 1.0, labels_of(A="1", z="2"))], 10.0)
    assert evaluate(parse("x"), store, 10.0) == [((("A", "1"), ("__name__", "x"), ("z", "2")), 1.0)]
    assert evaluate(parse("x + 1"), store, 10.0) == [((("A", "1"), ("z", "2")), 2.0)]
