"""Exposition formats and quantiles, without any file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exposition import OPENMETRICS, PROMETHEUS, quantile, text, wants
from proxy.metrics import Family


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", None),
        ("*/*", None),
        ("application/json", None),
        ("text/html,application/xhtml+xml,*/*;q=0.8", None),
        ("text/plain", PROMETHEUS),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", PROMETHEUS),
        ("application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5", OPENMETRICS),
    ],
)
def test_the_accept_header_chooses(accept: str, expected: bytes | None) -> None:
    """Scrapers get text, everybody else JSON."""
    assert wants(accept) == expected


def test_text_is_escaped_and_buckets_add_up() -> None:
    """Label values are escaped, and a histogram's buckets are cumulative and end in +Inf."""
    families = {
        "h": Family("histogram", "h", 'a "b"\nc', ("k",), (0.5, 1.0), series={('x"\\\n',): [1.0, 2.0, 3.0, 9.5]}),
    }
    assert text(families, PROMETHEUS).decode() == (
        '# HELP h a "b"\\nc\n# TYPE h histogram\n'
        'h_bucket{k="x\\"\\\\\\n",le="0.5"} 1\n'
        'h_bucket{k="x\\"\\\\\\n",le="1"} 3\n'
        'h_bucket{k="x\\"\\\\\\n",le="+Inf"} 6\n'
        'h_sum{k="x\\"\\\\\\n"} 9.5\n'
        'h_count{k="x\\"\\\\\\n"} 6\n'
    )


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.floats(0.01, 1.0))
def test_a_quantile_lies_in_the_bucket_that_holds_its_rank(counts: list[int], q: float) -> None:
    """The estimate never leaves the bucket in which the q-th observation was counted."""
    buckets = (1.0, 2.0, 4.0)
    found = quantile(q, buckets, counts)
    if not sum(counts):
        assert found is None
        return
    seen = 0.0
    for lower, upper, count in zip((0.0, *buckets), (*buckets, 4.0), counts, strict=True):
        seen += count
        if seen >= q * sum(counts):
            assert found is not None
            assert min(lower, upper) <= found <= upper
            return
