"""Flapping and chronic self-healing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.core.steadiness import (
    SLOTS,
    Steadiness,
    Trouble,
    change_share,
    changed_slots,
    chronic,
    flapping_until,
)

NUMBERS = Steadiness(slot=10, chronic_count=3, chronic_window=1000, chronic_well=200)
NOW = 10_000.0


def ill(*spans: tuple[float, float | None]) -> tuple[Trouble, ...]:
    return tuple(Trouble(NOW + begin, None if end is None else NOW + end) for begin, end in spans)


def test_newer_changes_weigh_more() -> None:
    """The share is 0 without a change, 1 with one in each slot, and the newest change weighs half as much again as the
    oldest."""
    assert change_share(frozenset(), 100) == 0
    assert change_share(frozenset(range(200)), 100) == pytest.approx(1)
    oldest, newest = change_share(frozenset({101 - SLOTS}), 100), change_share(frozenset({100}), 100)
    assert newest / oldest == pytest.approx(1.5)
    assert change_share(frozenset({100 - SLOTS, 101}), 100) == 0


def test_a_slot_changes_when_the_target_falls_ill_or_gets_well_in_it() -> None:
    """Both ends of a trouble are changes; what lies in the future is none."""
    assert changed_slots(ill((-55, -25), (5, 6)), NOW, 10) == {994, 997}


def test_a_target_that_changes_all_the_time_flaps_until_it_has_been_calm() -> None:
    """Flapping begins above the high threshold, lasts until the share is below the low one, and the promised end is
    the first moment at which it is calm."""
    troubles = ill(*((-10.0 * n, -10.0 * n + 4) for n in range(15, 0, -1)))
    until = flapping_until(troubles, NOW, NUMBERS)
    assert until is not None
    assert until > NOW
    assert flapping_until(troubles, until, NUMBERS) is None
    assert flapping_until(troubles, until - 1, NUMBERS) == until


def test_few_changes_are_no_flapping() -> None:
    """A target that fell ill three times in the window does not flap: budgets and backoff are for that."""
    assert flapping_until(ill((-150, -140), (-90, -80), (-30, -20)), NOW, NUMBERS) is None


def test_between_the_thresholds_it_depends_on_what_was_before() -> None:
    """Hysteresis: the same share is calm on the way up and flapping on the way down."""
    burst = ill(*((-10.0 * n, -10.0 * n + 4) for n in range(24, 8, -1)))
    sparse = ill(*((-10.0 * n, -10.0 * n + 4) for n in range(19, 11, -1)))
    low, high = NUMBERS.calm_below, NUMBERS.flapping_above
    assert low <= change_share(changed_slots(burst, NOW, 10), 1000) < high
    assert low <= change_share(changed_slots(sparse, NOW, 10), 1000) < high
    assert flapping_until(burst, NOW, NUMBERS) is not None
    assert flapping_until(sparse, NOW, NUMBERS) is None


@given(st.lists(st.tuples(st.integers(-400, 50), st.integers(0, 60)), max_size=30))
def test_flapping_always_ends(spans: list[tuple[int, int]]) -> None:
    """Whatever happened, the promised end lies in the future and within the time that the slots span."""
    troubles = ill(*((float(begin), float(begin + length)) for begin, length in sorted(spans)))
    until = flapping_until(troubles, NOW, NUMBERS)
    assert until is None or NOW < until <= NOW + (SLOTS + 1) * NUMBERS.slot


def test_healed_again_and_again_is_chronic() -> None:
    """Three healings in the window without a long time of health are chronic; two are not, nor are old ones."""
    troubles = ill((-500, -490), (-400, -390), (-300, -290))
    healed = [trouble.resolved_at or 0.0 for trouble in troubles]
    assert chronic(healed, troubles, NOW, NUMBERS) == 3
    assert chronic(healed[1:], troubles, NOW, NUMBERS) is None
    assert chronic(healed, troubles, NOW + 800, NUMBERS) is None


def test_a_long_time_of_health_starts_the_count_anew() -> None:
    """What was healed before the target was well for long does not count any more."""
    troubles = ill((-900, -890), (-800, -790), (-300, -290))
    healed = [trouble.resolved_at or 0.0 for trouble in troubles]
    assert chronic(healed, troubles, NOW, NUMBERS) is None
