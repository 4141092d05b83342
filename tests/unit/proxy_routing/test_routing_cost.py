"""What an answer costs."""

from __future__ import annotations

import pytest

from proxy.call import Usage
from proxy.routing.cost import cost_usd
from proxy.settings.models import Price


@pytest.mark.parametrize(
    ("price", "usage", "cost"),
    [
        (None, Usage(1, 1), None),
        (Price(input=1, output=2), None, None),
        (Price(input=2, output=8), Usage(1_000_000, 500_000), 6.0),
        (Price(input=2, output=8, cached_input=1), Usage(1_000_000, 0, cached=400_000), 1.6),
        (Price(input=2, output=8), Usage(1_000_000, 0, cached=400_000), 2.0),
        (Price(input=2, output=8, cached_input=0), Usage(10, 0, cached=400), 0.0),
    ],
)
def test_cost(price: Price | None, usage: Usage | None, cost: float | None) -> None:
    """Dollars per million tokens, cached ones at their own price; nothing known, nothing told."""
    assert cost_usd(price, usage) == (None if cost is None else pytest.approx(cost))
