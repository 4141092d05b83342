"""The arithmetic of sliding windows: what is let through, when the next may come, what a burst may be."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.limits.window import BUCKETS, RING, Window

SECONDS = 60.0
WIDTH = SECONDS / BUCKETS


class Counted:
    """Counters in a dict, which forget nothing; only what a ring would still hold may be asked for."""

    def __init__(self) -> None:
        self.cells: defaultdict[int, int] = defaultdict(int)
        self.newest = -RING

    def total(self, number: int) -> int:
        self.newest = max(self.newest, number)
        assert number > self.newest - RING
        return self.cells[number]

    def add(self, number: int, amount: int) -> None:
        self.cells[number] += amount


def admitted(windows: list[Window], arrivals: list[tuple[float, int]]) -> list[float]:
    """When requests were let through; each arrival is a time and the process that it comes to."""
    through = []
    for now, process in arrivals:
        window = windows[process % len(windows)]
        window.look(now)
        if window.remaining() > 0:
            assert window.wait() == 0.0
            window.add(1)
            through.append(now)
        else:
            assert window.wait() > 0.0
    return through


def most_in_a_window(times: list[float], seconds: float) -> int:
    return max((sum(begin <= time < begin + seconds for time in times) for begin in times), default=0)


gaps = st.lists(
    st.tuples(st.one_of(st.just(0.0), st.floats(0, 0.5), st.floats(0, 70)), st.integers(0, 2)), max_size=120
)


def times_of(gaps: list[tuple[float, int]]) -> list[tuple[float, int]]:
    now, times = 1000.0, []
    for gap, process in gaps:
        now += gap
        times.append((now, process))
    return times


@given(gaps=gaps, limit=st.integers(1, 40), burst=st.one_of(st.none(), st.integers(1, 10)))
def test_never_more_than_the_limit_in_any_window(gaps: list[tuple[float, int]], limit: int, burst: int | None) -> None:
    """Wherever a window begins, and whichever of three processes answers, no more than the limit passes in it."""
    counted = Counted()
    windows = [Window(limit, SECONDS, burst, counted) for _ in range(3)]
    assert most_in_a_window(admitted(windows, times_of(gaps)), SECONDS) <= limit


@given(gaps=gaps, limit=st.integers(1, 40), burst=st.integers(1, 10))
def test_never_more_than_the_burst_ahead_of_the_pace(gaps: list[tuple[float, int]], limit: int, burst: int) -> None:
    """In any span of t seconds no more than burst + pace * t pass, give or take what one bucket may hold."""
    counted = Counted()
    through = admitted([Window(limit, SECONDS, burst, counted) for _ in range(3)], times_of(gaps))
    pace = limit / SECONDS
    for first, begin in enumerate(through):
        for count, end in enumerate(through[first:], 1):
            assert count <= burst + pace * (end - begin) + pace * WIDTH + 1e-6


@given(st.integers(1, 600), st.floats(0, 0.9), st.floats(0, 100))
def test_below_the_pace_nobody_is_refused(limit: int, jitter: float, start: float) -> None:
    """A caller whose requests come evenly, at most at BUCKETS / (BUCKETS + 1) of the limit, is always let in."""
    window = Window(limit, SECONDS, None, Counted())
    every = SECONDS / limit * RING / BUCKETS * 1.000001
    count = min(3 * limit, 300)
    times = [(start + index * every, 0) for index in range(count)]
    assert len(admitted([window], times)) == count


@given(gaps=gaps, limit=st.integers(1, 20), burst=st.one_of(st.none(), st.integers(1, 5)))
def test_the_wait_that_is_told_is_enough_and_not_too_long(
    gaps: list[tuple[float, int]], limit: int, burst: int | None
) -> None:
    """Who comes again after the wait told is let in, and who comes earlier by more than a bucket and a request's
    pace is not."""
    window = Window(limit, SECONDS, burst, Counted())
    times = times_of(gaps)
    admitted([window], times)
    now = times[-1][0] if times else 0.0
    window.look(now)
    wait = window.wait()
    slack = WIDTH + 1e-6
    if wait > slack:
        window.look(now + wait - slack)
        assert window.remaining() == 0
    window.look(now + wait + 1e-6)
    assert window.remaining() > 0


@given(gaps=gaps, limit=st.integers(1, 20))
def test_after_the_reset_that_is_told_everything_is_free(gaps: list[tuple[float, int]], limit: int) -> None:
    """The reset is when the whole limit may be had again, and no more than a bucket later than that."""
    window = Window(limit, SECONDS, None, Counted())
    times = times_of(gaps)
    through = admitted([window], times)
    now = times[-1][0] if times else 0.0
    window.look(now)
    reset = window.reset()
    assert reset <= max(0.0, (through[-1] if through else 0.0) + SECONDS + WIDTH - now) + 1e-6
    window.look(now + reset + 1e-6)
    assert window.remaining() == limit


def test_an_even_overload_gets_the_limit_within_half_a_percent() -> None:
    """Five times the pace for ten windows: what passes is the limit each window, to within 0.5 %."""
    window = Window(600, SECONDS, None, Counted())
    through = admitted([window], [(index * 0.02, 0) for index in range(30_000)])
    assert 10 * 600 * 0.995 <= len(through) <= 10 * 600


def test_a_small_burst_makes_an_overload_even() -> None:
    """With a burst of 5, an overload passes at the pace: 10 a second, never 16 in one."""
    window = Window(600, SECONDS, 5, Counted())
    through = admitted([window], [(index * 0.002, 0) for index in range(10_000)])
    assert most_in_a_window(through, 1.0) <= 15
    assert 200 * 0.99 <= len(through) <= 205


def test_a_process_that_looks_for_the_first_time_knows_of_the_burst() -> None:
    """A worker that has just been started sees what the others let through, and the burst is not given twice."""
    counted = Counted()
    first = Window(60, SECONDS, 5, counted)
    assert len(admitted([first], [(100.0, 0)] * 9)) == 5
    fresh = Window(60, SECONDS, 5, counted)
    fresh.look(100.0 + WIDTH)
    assert fresh.remaining() == 0
    assert fresh.wait() == pytest.approx(1.0, abs=2 * WIDTH)


@pytest.mark.parametrize("back", [0.001, 1.0, 59.0], ids=["a-little", "a-second", "nearly-a-window"])
def test_a_clock_that_is_set_back_a_little_lets_nothing_more_through(back: float) -> None:
    """The window stands still until the clock has caught up; then it goes on."""
    window = Window(3, SECONDS, None, Counted())
    assert len(admitted([window], [(1000.0, 0)] * 5)) == 3
    assert admitted([window], [(1000.0 - back, 0)] * 5) == []
    assert len(admitted([window], [(1000.0 + SECONDS + WIDTH, 0)] * 5)) == 3


@pytest.mark.parametrize("jump", [-3600.0, 3600.0], ids=["back", "ahead"])
def test_a_clock_that_jumps_far_locks_nobody_out(jump: float) -> None:
    """After an hour's jump the limit is what it was, once more at most, and does not wait for the hour."""
    counted = Counted()
    window = Window(3, SECONDS, None, counted)
    assert len(admitted([window], [(10_000.0, 0)] * 5)) == 3
    counted.newest = -RING
    assert len(admitted([window], [(10_000.0 + jump, 0)] * 5)) == 3
    assert len(admitted([window], [(10_000.0 + jump + 30, 0)] * 5)) == 0


def test_what_is_charged_late_counts() -> None:
    """An amount above the limit is counted whole, and holds until it has left the window."""
    window = Window(100, SECONDS, None, Counted())
    window.look(5.0)
    window.add(250)
    assert window.remaining() == 0
    window.look(5.0 + SECONDS)
    assert window.remaining() == 0
    assert window.wait() == pytest.approx(math.ceil(5.0 / WIDTH) * WIDTH + SECONDS - 65.0, abs=2 * WIDTH)
    window.look(5.0 + SECONDS + WIDTH)
    assert window.remaining() == 100


def test_a_window_is_tightened_and_made_whole_again() -> None:
    """A share of limit and burst holds at once, at least one request; what was counted before goes on to count, and
    the whole limit is back as it was."""
    window = Window(100, 60.0, 40, Counted())
    window.look(0.0)
    for _ in range(20):
        window.add(1)
    assert window.remaining() == 20
    window.tighten(0.25)
    assert (window.limit, window.remaining(), window.wait() > 0) == (25, 0, True)
    window.tighten(0.001)
    assert window.limit == 1
    window.tighten(1.0)
    assert (window.limit, window.remaining(), window.wait()) == (100, 20, 0.0)
