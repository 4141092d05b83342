"""The life of a key, and which key a request takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.keys import (
    ASK_MAX_SECONDS,
    COOLDOWN_MAX_SECONDS,
    SPENT_SECONDS,
    UNKNOWN,
    KeyLife,
    KeyState,
    choose,
    limited,
    refused,
    reinstated,
    retire,
    soonest,
    worked,
)

NOW = 1000.0


def test_key_cools_down_for_as_long_as_the_provider_asks() -> None:
    """Retry-After is the cooldown; afterwards the key is active again."""
    life = limited(UNKNOWN, 7.0, NOW, spent=False)
    assert (life.state(NOW + 6.9), life.until(NOW)) == (KeyState.COOLDOWN, NOW + 7)
    assert life.state(NOW + 7.0) is KeyState.ACTIVE


def test_key_backs_off_without_a_retry_after() -> None:
    """Without one the cooldown doubles with each 429 in a row, up to its limit, and a success starts it anew."""
    life, now, waits = UNKNOWN, NOW, []
    for _ in range(8):
        life = limited(life, None, now, spent=False)
        waits.append(life.cooling_until - now)
        now = life.cooling_until
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, COOLDOWN_MAX_SECONDS, COOLDOWN_MAX_SECONDS]
    assert limited(worked(life, now), None, now, spent=False).cooling_until == now + 1.0


def test_many_requests_that_meet_one_limit_are_one_strike() -> None:
    """A 429 during the cooldown, from a request that was on its way, lengthens nothing; a longer wait still counts."""
    life = limited(UNKNOWN, None, NOW, spent=False)
    assert limited(life, None, NOW + 0.5, spent=False) == life
    assert limited(life, 5.0, NOW + 0.5, spent=False).cooling_until == NOW + 5.5
    assert limited(limited(UNKNOWN, 60.0, NOW, spent=False), 1.0, NOW, spent=False).cooling_until == NOW + 60


def test_key_rests_for_a_moment_at_least() -> None:
    """A Retry-After of nothing does not have the same request meet the same limit again at once."""
    assert limited(UNKNOWN, 0.0, NOW, spent=False).state(NOW + 0.09) is KeyState.COOLDOWN


def test_key_without_money_rests_long() -> None:
    """A spent quota is not asked for again every few seconds."""
    assert limited(UNKNOWN, None, NOW, spent=True).cooling_until == NOW + SPENT_SECONDS


def test_key_dies_and_is_asked_again_ever_more_rarely() -> None:
    """A refused key stays dead; each time it is refused again the pause doubles up to five minutes."""
    life, now, pauses = UNKNOWN, NOW, []
    for _ in range(7):
        life = refused(life, "refused with 401", now)
        assert (life.state(now + 10_000), life.dead_since) == (KeyState.DEAD, NOW)
        pauses.append(life.ask_at - now)
        now = life.ask_at
    assert pauses == [15.0, 30.0, 60.0, 120.0, 240.0, ASK_MAX_SECONDS, ASK_MAX_SECONDS]
    assert worked(life, now).state(now) is KeyState.ACTIVE


def test_many_requests_refused_at_once_are_one_death() -> None:
    """Further refusals before the key is to be asked again change nothing."""
    life = refused(UNKNOWN, "refused with 401", NOW)
    assert refused(life, "refused with 403", NOW + 1) is life


def test_working_key_costs_no_write() -> None:
    """A key that always worked stays the very same object."""
    assert worked(UNKNOWN, NOW) is UNKNOWN


def test_retiring_key_is_a_spare_and_ends() -> None:
    """Until the grace ends it is a spare, then nothing; an operator can take it back."""
    life = retire(UNKNOWN, NOW + 60)
    assert (life.state(NOW), life.until(NOW), life.state(NOW + 60)) == (KeyState.RETIRING, NOW + 60, KeyState.RETIRED)
    assert reinstated(life).state(NOW + 60) is KeyState.ACTIVE


def test_choose_turns_among_the_active_and_keeps_spares_for_last() -> None:
    """Each turn begins at the next active key; retiring ones come after them, dead and cooling ones not at all."""
    lives = [
        UNKNOWN,
        retire(UNKNOWN, NOW + 9),
        refused(UNKNOWN, "", NOW),
        limited(UNKNOWN, 5, NOW, spent=False),
        UNKNOWN,
    ]
    assert [choose(lives, turn, NOW) for turn in range(3)] == [[0, 4, 1], [4, 0, 1], [0, 4, 1]]
    assert soonest(lives, NOW) == 5.0
    assert soonest([UNKNOWN], NOW) is None


_LIVES = st.builds(
    KeyLife,
    cooling_until=st.floats(0, 2000),
    dead_since=st.none() | st.floats(0, 2000),
    retire_at=st.none() | st.floats(0, 2000),
)


@given(st.lists(_LIVES, max_size=6), st.integers(0, 100), st.floats(0, 2000))
def test_choose_offers_each_usable_key_once_and_no_other(lives: list[KeyLife], turn: int, now: float) -> None:
    """Never a dead, cooling or retired key; never one twice; none that could be used is left out."""
    chosen = choose(lives, turn, now)
    usable = {n for n, life in enumerate(lives) if life.state(now) in (KeyState.ACTIVE, KeyState.RETIRING)}
    assert sorted(chosen) == sorted(usable)
