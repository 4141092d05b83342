"""Metrics in mapped files: sums over processes, folding of the dead, bounded series."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy import metrics
from proxy.metrics import MAX_SERIES, Metrics


def test_sums_over_processes_and_keeps_counters_of_the_dead(tmp_path: Path) -> None:
    """Counters and histograms of a dead process stay, its gauges vanish, and nothing is counted twice."""
    script = (
        "import sys, os; from pathlib import Path; from proxy.metrics import Metrics;"
        "m = Metrics(Path(sys.argv[1]), 'w0');"
        "m.counter('a_total', 'A', ('k',)).inc('x', by=3); m.gauge('g', 'G').set(7);"
        "m.histogram('h_seconds', 'H', (0.1, 1.0)).observe(0.5); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    mine = Metrics(tmp_path, "w1")
    mine.counter("a_total", "A", ("k",)).inc("x")
    mine.gauge("g", "G").set(5)
    before = metrics.read(tmp_path)
    metrics.fold(tmp_path, "w0")
    metrics.fold(tmp_path, "w0")
    after = metrics.read(tmp_path)
    mine.close()
    assert before["a_total"].series == after["a_total"].series == {("x",): [4.0]}
    assert before["h_seconds"].series == after["h_seconds"].series == {(): [0.0, 1.0, 0.0, 0.5]}
    assert (before["g"].series[()], after["g"].series[()]) == ([12.0], [5.0])


def test_a_file_already_folded_is_not_counted_again(tmp_path: Path) -> None:
    """A crash of the master between writing the base and removing the file counts nothing twice."""
    mine = Metrics(tmp_path, "w0")
    mine.counter("a_total", "A").inc()
    mine.close()
    copy = (tmp_path / "w0.metrics").read_bytes()
    metrics.fold(tmp_path, "w0")
    (tmp_path / "w0.metrics").write_bytes(copy)
    assert metrics.read(tmp_path)["a_total"].series == {(): [1.0]}
    metrics.fold_all(tmp_path)
    assert metrics.read(tmp_path)["a_total"].series == {(): [1.0]}
    assert not list(tmp_path.glob("*.metrics"))


def test_series_are_capped(tmp_path: Path) -> None:
    """Label values beyond the cap share the series `other`, whose count is theirs together."""
    mine = Metrics(tmp_path, "w0")
    counter = mine.counter("a_total", "A", ("k",))
    for number in range(1000):
        counter.inc(str(number))
    series = metrics.read(tmp_path)["a_total"].series
    mine.close()
    assert len(series) == MAX_SERIES
    assert series["other",] == [1000.0 - (MAX_SERIES - 1)]


def test_a_series_found_once_counts_like_its_metric(tmp_path: Path) -> None:
    """Handles of series and the metrics that gave them count in the same cells."""
    mine = Metrics(tmp_path, "w0")
    counter, histogram = mine.counter("a_total", "A", ("k",)), mine.histogram("h", "H", (1.0, 2.0), ("k",))
    counter.at("x").inc()
    counter.at("x").inc(by=2)
    counter.inc("x")
    histogram.at("x").observe(1.5)
    histogram.observe(5, "x")
    families = metrics.read(tmp_path)
    mine.close()
    assert families["a_total"].series == {("x",): [4.0]}
    assert families["h"].series == {("x",): [0.0, 1.0, 1.0, 6.5]}


def test_shared_levels_are_not_added_up(tmp_path: Path) -> None:
    """A gauge that every worker reports of one shared thing shows the thing once."""
    both = [Metrics(tmp_path, name) for name in ("w0", "w1")]
    for level, mine in enumerate(both):
        mine.gauge("cache_entries", "E", combine="max").set(10 + level)
        mine.gauge("in_flight", "I").set(2)
    families = metrics.read(tmp_path)
    for mine in both:
        mine.close()
    assert families["cache_entries"].series == {(): [11.0]}
    assert families["in_flight"].series == {(): [4.0]}


def test_misuse_is_refused(tmp_path: Path) -> None:
    """A wrong number of label values, a second kind for one name, and unsorted buckets are bugs that raise."""
    mine = Metrics(tmp_path, "w0")
    counter = mine.counter("a_total", "A", ("k",))
    with pytest.raises(ValueError, match="labels"):
        counter.inc()
    with pytest.raises(ValueError, match="already a counter"):
        mine.gauge("a_total", "A")
    with pytest.raises(ValueError, match="ascend"):
        mine.histogram("h", "H", (2.0, 1.0))
    with pytest.raises(FileExistsError):
        Metrics(tmp_path, "w0")
    mine.close()


def test_an_unfinished_file_reads_as_empty(tmp_path: Path) -> None:
    """A process that died while making its file breaks neither reading nor folding."""
    (tmp_path / "w0.metrics").write_bytes(b"")
    assert metrics.read(tmp_path) == {}
    metrics.fold_all(tmp_path)
    assert not list(tmp_path.glob("*.metrics"))
