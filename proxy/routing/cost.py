"""What an answer costs."""

from __future__ import annotations

from proxy.call import Usage
from proxy.settings.models import Price

_PER_MILLION = 1e-6


def cost_usd(price: Price | None, usage: Usage | None) -> float | None:
    """US dollars; None without a price or a usage. Tokens read from the provider's cache cost `cached_input` where
    that is known, and those written to it what other input costs."""
    if price is None or usage is None:
        return None
    cached = min(usage.cached, usage.input)
    cached_price = price.input if price.cached_input is None else price.cached_input
    cost = (usage.input - cached) * price.input + cached * cached_price + usage.output * price.output
    return cost * _PER_MILLION
