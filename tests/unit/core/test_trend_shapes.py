"""What the trend tells apart, over drawn and recorded histories, and what it says of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from generated_curves import FAMILIES, MIB, QUANTUM, Family, curve, verdicts

from watchdog.core.trend import Judgement, Line, Outlook, Point, Shape, judge, sen_interval, theil_sen, until
from watchdog.core.trend.fitting import certainty, fit, likeness
from watchdog.core.trend.floors import in_order

RECORDED = Path(__file__).parents[2] / "data" / "trends"
SEEDS = range(12)


@cache
def _verdicts(family: Family) -> Counter[Shape]:
    return verdicts(family, SEEDS)


def drawn(value: Callable[[int], float], count: int = 120, *, requests: float | None = None) -> list[Point]:
    return [Point(60.0 * i, value(i), None if requests is None else requests * i) for i in range(count)]


def test_the_table_of_confusions() -> None:
    """Of innocents at most one in a hundred is called a leak, and of leaks at most one in twenty is not."""
    found = {family: _verdicts(family) for family in FAMILIES}
    leaks = [counts for family, counts in found.items() if family.leaks]
    innocents = [counts for family, counts in found.items() if not family.leaks]
    missed = sum(counts.total() - counts[Shape.LEAK] for counts in leaks)
    alarms = sum(counts[Shape.LEAK] for counts in innocents)
    assert missed <= 0.05 * len(SEEDS) * len(leaks)
    assert alarms <= 0.01 * len(SEEDS) * len(innocents)


@pytest.mark.parametrize("family", [family for family in FAMILIES if not family.leaks], ids=lambda family: family.name)
def test_innocents_are_told_apart(family: Family) -> None:
    """Most curves of each innocent family are called what they are."""
    found = _verdicts(family)
    allowed = {*family.truths, *({Shape.STEP} if Shape.NOISE in family.truths else ())}
    assert sum(found[shape] for shape in allowed) >= 0.7 * len(SEEDS)


@pytest.mark.parametrize("file", sorted(RECORDED.glob("*.txt")), ids=lambda file: file.stem)
def test_recorded_processes(file: Path) -> None:
    """Curves of real processes are called what the processes did."""
    rows = [[float(cell) for cell in line.split()] for line in file.read_text().splitlines()]
    points = [Point(time, kibibytes * 1024, requests) for time, kibibytes, requests in rows]
    assert file.stem.startswith(judge(points, quantum=QUANTUM).shape)


def test_every_shape_was_recorded() -> None:
    """No kind of process went missing from the data."""
    known = {shape for shape in Shape for file in RECORDED.glob("*.txt") if file.stem.startswith(shape)}
    assert known == set(Shape) - {Shape.NOISE, Shape.UNKNOWN}


def test_a_line_is_judged_with_all_its_figures() -> None:
    """Slope, interval, growth per request, window, and a chance next to none."""
    found = judge(drawn(lambda i: 50 * MIB + i * 0.1 * MIB, requests=30), quantum=QUANTUM)
    assert found.shape is Shape.LEAK
    assert found.slope == pytest.approx(0.1 * MIB / 60)
    assert found.low == pytest.approx(found.high)
    assert found.per_request == pytest.approx(0.1 * MIB / 30)
    assert found.window == 119 * 60
    assert found.p < 1e-6
    assert found.confidence > 0.65


def test_requests_that_are_not_known() -> None:
    """There is no growth per request, and everything else is there."""
    found = judge(drawn(lambda i: i * MIB), quantum=QUANTUM)
    assert (found.shape, found.per_request) == (Shape.LEAK, None)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_too_little_is_no_history(count: int) -> None:
    """A handful of readings has no shape."""
    assert judge(drawn(lambda i: i * MIB, count)) == Judgement(Shape.UNKNOWN)


def test_readings_in_two_bursts_are_too_few_places() -> None:
    """Many readings at only two times do not make a trend."""
    points = [Point(start + i * 0.01, 1e6 * start) for start in (0.0, 1000.0) for i in range(20)]
    assert judge(points).shape is Shape.UNKNOWN


def test_what_is_explained_is_no_leak() -> None:
    """A cache that fills at a steady pace looks like a leak until its own account of its size is taken away."""
    points = drawn(lambda i: 50 * MIB + i * MIB)
    told = [Point(one.time, one.value, None, explained=i * MIB) for i, one in enumerate(points)]
    assert judge(points, quantum=QUANTUM).shape is Shape.LEAK
    assert judge(told, quantum=QUANTUM).shape is Shape.PLATEAU


def test_small_teeth_on_a_flat_floor() -> None:
    """A saw whose floor stays is a saw, however short its teeth."""
    points = drawn(lambda i: 50 * MIB + (i % 12) * MIB, 240)
    assert judge(points, quantum=QUANTUM).shape is Shape.SAW_TOOTH


def test_a_leak_below_long_teeth_is_seen_in_the_valleys() -> None:
    """With teeth longer than the stretches it is what the falls leave that counts, per request as well."""
    points = drawn(lambda i: 50 * MIB + (i % 20) * MIB + (i // 20) * 4 * MIB, 240, requests=10)
    found = judge(points, quantum=QUANTUM)
    assert found.shape is Shape.LEAK
    assert found.slope * 60 * 20 == pytest.approx(4 * MIB, rel=0.05)
    assert judge(points[:120], quantum=QUANTUM).shape in {Shape.SAW_TOOTH, Shape.LEAK}


def test_a_process_that_was_replaced_begins_anew() -> None:
    """A counter of requests that falls ends what was before; a clock that stands or goes back adds nothing."""
    points = [Point(float(i), i, 10.0 * i) for i in range(20)] + [Point(20.0 + i, i, 10.0 * i) for i in range(5)]
    assert in_order(points) == points[20:]
    again = [Point(0, 1), Point(5, 2), Point(5, 3), Point(4, 4), Point(6, math.nan), Point(7, 6)]
    assert [one.value for one in in_order(again)] == [1, 2, 6]


def test_noise_and_plateau() -> None:
    """What swings by more than a hundredth without order is noise, by less a plateau."""
    wild = drawn(lambda i: 50 * MIB + 20 * MIB * math.sin(i * i), 600)
    assert judge(wild, quantum=QUANTUM).shape in {Shape.NOISE, Shape.PLATEAU}
    assert judge(drawn(lambda i: 50 * MIB - i * MIB / 4), quantum=QUANTUM).shape is Shape.NOISE
    assert judge(drawn(lambda i: 5000 * MIB + MIB * (i * i * 7919 % 13)), quantum=QUANTUM).shape is Shape.PLATEAU


def test_the_outlook_of_a_leak() -> None:
    """Room divided by the slope, and by the steepest that it may be; nothing for what does not leak."""
    leak = Judgement(Shape.LEAK, slope=2.0, low=1.0, high=4.0)
    assert until(100, 20, leak) == Outlook(40.0, 20.0)
    assert until(100, 120, leak) == Outlook(0.0, 0.0)
    assert until(100, 20, Judgement(Shape.WARM_UP, slope=2.0)) is None
    assert until(100, 20, Judgement(Shape.LEAK, slope=0.0)) is None


def test_the_interval_holds_the_slope_and_widens_with_likeness() -> None:
    """Sen's interval lies around the slope; neighbours that are alike make it wider; without times there is none."""
    points = [(float(i), 2.0 * i + (i * 7 % 5)) for i in range(30)]
    line, plain, wide = theil_sen(points), sen_interval(points), sen_interval(points, inflation=9.0)
    assert isinstance(line, Line)
    assert plain is not None
    assert wide is not None
    assert wide.low < plain.low <= line.slope <= plain.high < wide.high
    assert sen_interval([(1.0, 1.0), (1.0, 2.0)]) is None


def test_columns_that_say_the_same_have_no_fit() -> None:
    """There is no single answer, and so no certainty either."""
    ones = [1.0] * 6
    assert fit([ones, ones], [1.0, 2, 3, 4, 5, 6]) is None
    assert certainty([ones, ones], [1.0, 2, 3, 4, 5, 6], 1, 0.0, 0.1) == 0.0


@pytest.mark.parametrize(
    ("residuals", "alike"),
    [([0.0] * 9, 0.0), ([1.0, -1.0] * 8, 0.0), ([1.0] * 8 + [-1.0] * 8, 0.95), ([1.0, 2.0], 0.0)],
)
def test_likeness_of_neighbours(residuals: list[float], alike: float) -> None:
    """None where residuals alternate, vanish or are too few; the most where they stay."""
    assert likeness(residuals, 2) == pytest.approx(alike)


def test_the_same_curve_is_drawn_for_the_same_seed() -> None:
    """The table can be made again."""
    assert curve(FAMILIES[0], 3) == curve(FAMILIES[0], 3)
