"""The memory of samples: what is kept, what is seen, what ends, and that it stays small."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.core.model import Labels, Sample, labels_of
from watchdog.metrics.series import BLOCK_SAMPLES, STALE, SeriesStore, is_stale

T0 = 1_700_000_000.0


def sample(name: str, value: float, **labels: str) -> Sample:
    return Sample(name, value, labels_of(labels))


def now_of(store: SeriesStore, name: str, at: float, lookback: float = 300.0) -> dict[Labels, float]:
    found = {}
    for series in store.select(name):
        newest = series.newest(round(at * 1000), round(lookback * 1000))
        if newest is not None:
            found[series.labels] = newest[1]
    return found


def test_the_newest_sample_is_seen_for_the_lookback_and_no_longer() -> None:
    """An instant sees a sample from its time on until just before five minutes have passed."""
    store = SeriesStore()
    store.ingest([sample("x", 1.0)], T0)
    assert [bool(now_of(store, "x", T0 + dt)) for dt in (-0.001, 0, 299.999, 300)] == [False, True, True, False]


def test_target_labels_win_and_empty_labels_are_absent() -> None:
    """`extra` replaces a sample's own label of that name; an empty value is no label."""
    store = SeriesStore()
    names = store.ingest([sample("x", 1.0, job="own", a="b")], T0, (("job", "probe"), ("service", "")))
    assert names == {"x"}
    assert list(now_of(store, "x", T0)) == [labels_of(a="b", job="probe")]


def test_what_a_source_returns_no_more_ends_at_once() -> None:
    """A series missing from its source's next scrape is gone at that moment, and its name counts as touched."""
    store = SeriesStore()
    store.ingest_scrape("p", [sample("x", 1.0, a="1"), sample("x", 2.0, a="2"), sample("y", 3.0)], T0)
    assert store.ingest_scrape("p", [sample("x", 5.0, a="1")], T0 + 1) == {"x", "y"}
    assert now_of(store, "x", T0 + 1) == {labels_of(a="1"): 5.0}
    assert now_of(store, "y", T0 + 1) == {}
    assert now_of(store, "y", T0 + 0.5) == {(): 3.0}


def test_only_what_is_new_is_news() -> None:
    """A value that goes on is no news; another value, a series that is new, ended or back, and a long silence are."""
    store = SeriesStore()
    steps: list[tuple[float, list[Sample], set[str]]] = [
        (0, [sample("x", 1.0), sample("y", 1.0)], {"x", "y"}),
        (1, [sample("x", 1.0), sample("y", 2.0)], {"y"}),
        (2, [sample("x", 1.0), sample("x", 1.0, a="1"), sample("y", 2.0)], {"x"}),
        (3, [sample("y", 2.0)], {"x"}),
        (4, [sample("x", 1.0), sample("y", 2.0)], {"x"}),
        (400, [sample("x", 1.0), sample("y", 2.0)], {"x", "y"}),
    ]
    assert [store.ingest_scrape("p", given, T0 + after) for after, given, _ in steps] == [news for *_, news in steps]
    assert store.ingest([sample("x", 1.0)], T0 + 401, source="p") == set()
    assert store.ingest([sample("x", 0.0)], T0 + 402, source="p") == {"x"}


def test_a_failed_source_ends_only_its_own_series() -> None:
    """No samples means that the source failed; what others measure goes on."""
    store = SeriesStore()
    store.ingest_scrape("p", [sample("x", 1.0, a="1")], T0)
    store.ingest_scrape("q", [sample("x", 1.0, a="2")], T0)
    store.ingest_scrape("p", [], T0 + 1)
    assert list(now_of(store, "x", T0 + 1)) == [labels_of(a="2")]
    assert store.forget_source("q", T0 + 2) == {"x"}
    assert now_of(store, "x", T0 + 2) == {}


def test_an_event_belongs_to_the_scrape_of_its_source() -> None:
    """A series that came by an event and that the next scrape lacks ends with that scrape."""
    store = SeriesStore()
    store.ingest_scrape("p", [sample("x", 1.0, w="0")], T0)
    store.ingest([sample("x", 0.0, w="9")], T0 + 1, source="p")
    assert now_of(store, "x", T0 + 1)[labels_of(w="9")] == 0.0
    store.ingest_scrape("p", [sample("x", 1.0, w="0")], T0 + 2)
    assert list(now_of(store, "x", T0 + 2)) == [labels_of(w="0")]


def test_a_series_that_ended_can_return() -> None:
    """After a stale marker a new sample is seen again, and ranges leave the marker out."""
    store = SeriesStore()
    for at, samples in ((0, [sample("x", 1.0)]), (1, []), (2, [sample("x", 3.0)])):
        store.ingest_scrape("p", samples, T0 + at)
    assert now_of(store, "x", T0 + 2) == {(): 3.0}
    assert store.range("x", {}, T0, T0 + 9) == [((), [(T0, 1.0), (T0 + 2, 3.0)])]


def test_two_samples_of_one_moment_keep_the_later_and_old_ones_are_refused() -> None:
    """The newest word of a millisecond counts; a sample older than what is known is dropped and counted."""
    store = SeriesStore()
    for at, value in ((10, 1.0), (10, 2.0), (9, 7.0)):
        store.ingest([sample("x", value)], T0 + at)
    assert store.range("x", {}, T0, T0 + 99) == [((), [(T0 + 10, 2.0)])]
    assert store.stats().late == 1


def test_nan_is_a_value_and_the_marker_is_not() -> None:
    """Only one bit pattern is the stale marker."""
    other = struct.unpack("<d", (0x7FF8_0000_0000_0001).to_bytes(8, "little"))[0]
    assert [is_stale(value) for value in (STALE, math.nan, other, 0.0, math.inf)] == [True, False, False, False, False]
    store = SeriesStore()
    store.ingest([sample("x", math.nan)], T0)
    assert math.isnan(now_of(store, "x", T0)[()])


def test_beyond_the_limit_series_are_dropped_and_counted() -> None:
    """A flood of label values costs neither memory nor the series that are already there."""
    store = SeriesStore(max_series=3)
    store.ingest([sample("x", float(i), i=str(i)) for i in range(10)], T0)
    store.ingest([sample("x", 5.0, i="0")], T0 + 1)
    assert (store.stats().series, store.stats().dropped) == (3, 7)
    assert now_of(store, "x", T0 + 1)[labels_of(i="0")] == 5.0


def test_idle_series_are_forgotten_and_make_room() -> None:
    """A series that nobody wrote for the retention is removed, also from selections that were made before."""
    store = SeriesStore(retention=100, max_series=1)
    store.ingest_scrape("p", [sample("x", 1.0)], T0)
    assert len(store.select("x")) == 1
    store.ingest([sample("y", 1.0)], T0 + 200)
    assert store.select("x") == []
    assert "x" not in store
    assert len(store.select("y")) == 1


def test_old_samples_leave_by_age_and_by_number() -> None:
    """A series keeps about the retention, and never many more than the allowed samples."""
    aged, counted = SeriesStore(retention=200), SeriesStore(retention=1e9, max_samples=300)
    for i in range(2000):
        aged.ingest([sample("x", float(i))], T0 + i)
        counted.ingest([sample("x", float(i))], T0 + i)
    assert 200 <= aged.stats().samples <= 200 + 2 * BLOCK_SAMPLES
    assert 300 - BLOCK_SAMPLES <= counted.stats().samples <= 300 + 2 * BLOCK_SAMPLES
    (series,) = aged.select("x")
    assert series.newest(round((T0 + 1810.5) * 1000), 300_000) == (round((T0 + 1810) * 1000), 1810.0)
    ((_, points),) = aged.range("x", {}, T0 + 1800, T0 + 1999)
    assert points == [(T0 + i, float(i)) for i in range(1800, 2000)]


def test_the_estimate_of_bytes_grows_with_series_and_stays_small() -> None:
    """An hour at five seconds costs a few kilobytes a series, not the 11.5 kB of plain arrays."""
    store = SeriesStore()
    for i in range(720):
        store.ingest([sample("x", math.sin(i) * 1e6, w="1"), sample("x", i * 3.0, w="2")], T0 + 5 * i)
    assert store.stats().samples == 1440
    assert 1000 < store.stats().bytes / 2 < 8000


@given(
    st.lists(st.tuples(st.integers(1, 100_000), st.floats(allow_nan=False)), min_size=1, max_size=400),
    st.integers(0, 400),
    st.integers(0, 400),
)
def test_packing_changes_nothing(steps: list[tuple[int, float]], low: int, high: int) -> None:
    """Ranges and instants over packed blocks are those of the plain list."""
    store = SeriesStore(retention=1e9)
    plain, at = [], 0
    for step, value in steps:
        at += step
        store.ingest([sample("x", value)], at / 1000)
        plain.append((at, value))
    (series,) = store.select("x")
    start, end = plain[min(low, len(plain) - 1)][0], plain[min(high, len(plain) - 1)][0]
    times, values = series.between(start, end)
    assert list(zip(times, values, strict=True)) == [pair for pair in plain if start <= pair[0] <= end]
    assert series.newest(end, 10**9) == next(pair for pair in reversed(plain) if pair[0] <= end)
    assert series.newest(plain[0][0] - 1, 10**9) is None


@pytest.mark.parametrize(("labels", "expected"), [({}, 2), ({"w": "1"}, 1), ({"w": ""}, 0), ({"zone": ""}, 2)])
def test_latest_filters_by_label(labels: dict[str, str], expected: int) -> None:
    """`latest` gives labels, value and time of what is there now; an empty value means that the label is absent."""
    store = SeriesStore()
    store.ingest([sample("x", 1.0, w="1"), sample("x", 2.0, w="2")], T0)
    found = store.latest("x", **labels)
    assert len(found) == expected
    assert all(at == T0 for _, _, at in found)
    assert store.latest("nothing") == []
