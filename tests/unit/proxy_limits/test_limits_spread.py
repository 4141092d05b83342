"""A share of what comes, let through evenly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.limits.spread import Spread


def test_half_is_every_second_one() -> None:
    """Half of the requests pass in turn, a quarter every fourth, all at 1, none at 0."""
    for share, passed in ((0.5, [1, 3, 5, 7]), (0.25, [3, 7]), (1.0, list(range(8))), (0.0, [])):
        spread = Spread()
        assert [number for number in range(8) if spread.admits(share)] == passed


@given(share=st.floats(0, 1), before=st.integers(0, 50), length=st.integers(1, 300))
def test_no_stretch_gets_more_or_less_than_its_share(share: float, before: int, length: int) -> None:
    """Wherever a stretch of requests begins, as many of it pass as its share says, to within one."""
    spread = Spread()
    row = [spread.admits(share) for _ in range(before + length)]
    assert abs(sum(row[before:]) - share * length) <= 1 + 1e-6
