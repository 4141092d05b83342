"""Metrics as text: what is read, what is refused with its line, what is written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.core.model import Sample, labels_of
from watchdog.metrics.exposition import ExpositionError, Family, parse_text, render_text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x 1", Sample("x", 1.0)),
        ("x{} 1", Sample("x", 1.0)),
        ("x 1 1395066363000", Sample("x", 1.0)),
        ("x 1 -3982045", Sample("x", 1.0)),
        ("  x\t  1  ", Sample("x", 1.0)),
        ("x 1\r", Sample("x", 1.0)),
        ("a:b_c1 2.5e-3", Sample("a:b_c1", 0.0025)),
        ("x +Inf", Sample("x", math.inf)),
        ("x -Inf", Sample("x", -math.inf)),
        ('x{a="b"} 1', Sample("x", 1.0, labels_of(a="b"))),
        ('x{b="2", a="1",} 1', Sample("x", 1.0, labels_of(a="1", b="2"))),
        ('x {a = "1" } 1', Sample("x", 1.0, labels_of(a="1"))),
        ('x{a=""} 1', Sample("x", 1.0)),
        (r'x{a="C:\\D \"q\"\n"} 1', Sample("x", 1.0, labels_of(a='C:\\D "q"\n'))),
        ('x{a="{b} # c, d=1"} 1', Sample("x", 1.0, labels_of(a="{b} # c, d=1"))),
        ('x_bucket{le="+Inf"} 3', Sample("x_bucket", 3.0, labels_of(le="+Inf"))),
        ('x_bucket{le="1"} 3 # {trace="a b"} 0.5 1.6e9', Sample("x_bucket", 3.0, labels_of(le="1"))),
        ("x_total 3 1520879607.789", Sample("x_total", 3.0)),
    ],
)
def test_a_line_is_one_sample(line: str, expected: Sample) -> None:
    """Both formats' lines are read the same, the first time and when their head is remembered."""
    assert parse_text(line) == [expected]
    assert parse_text(f"{line}\n{line}\n") == [expected, expected]


def test_comments_empty_lines_and_the_end_mark_are_read_over() -> None:
    """HELP, TYPE, UNIT, EOF and blank lines give nothing."""
    text = "# HELP x what\n# TYPE x counter\n# UNIT x s\n\n  \n  # odd\nx 1\n# EOF\n"
    assert parse_text(text) == [Sample("x", 1.0)]
    assert parse_text("") == []


def test_nan_is_read() -> None:
    """NaN is a value."""
    assert math.isnan(parse_text("x NaN")[0].value)


@pytest.mark.parametrize(
    "line",
    ["x", "x one", "x 1 2 3", "1x 1", "{} 1", 'x{a="b" 1', 'x{a="b"', "x{a=b} 1", 'x{a="1",a="2"} 1', 'x{1a="b"} 1',
     'x{a="b"c="d"} 1', "x 1_000", "x 1 now", "x,y 1"],
)  # fmt: skip
def test_a_malformed_line_is_refused_with_its_number(line: str) -> None:
    """The error says which line, and shows it."""
    with pytest.raises(ExpositionError, match=r"^line 3: ") as refusal:
        parse_text(f"# fine\ny 1\n{line}\nz 1\n")
    assert refusal.value.line == 3
    assert isinstance(refusal.value, ValueError)


names = st.builds(str.__add__, st.sampled_from(["a", "Z", "_", ":"]), st.text("aZ_:09", max_size=8))
labels = st.dictionaries(
    st.builds(str.__add__, st.sampled_from(["a", "Z", "_"]), st.text("aZ_09", max_size=4)),
    st.text('ab1 \t\n\r"\\{},=#é\u2028', min_size=1, max_size=12),
    max_size=4,
).map(labels_of)


@given(st.lists(st.builds(Sample, names, st.floats(allow_nan=False), labels), max_size=5))
def test_what_we_write_we_read(samples: list[Sample]) -> None:
    """Any samples survive being written and read."""
    assert parse_text(render_text([Family("x", "untyped", "two\nlines \\", samples)])) == samples


def test_the_form_is_prometheus_text() -> None:
    """One family with help and type, integers without a point."""
    family = Family("x_total", "counter", "What.", [Sample("x_total", 3.0, labels_of(a='q"')), Sample("x_total", 0.5)])
    assert render_text([family]) == ('# HELP x_total What.\n# TYPE x_total counter\nx_total{a="q\\""} 3\nx_total 0.5\n')
