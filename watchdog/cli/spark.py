"""A series in the width of a word."""

from __future__ import annotations

from collections.abc import Sequence

_LEVELS = "▁▂▃▄▅▆▇█"


def spark(values: Sequence[float], width: int) -> str:
    """At most `width` blocks, as high as the values are; medians of neighbours where there are more. Empty for none."""
    if not values or width < 1:
        return ""
    step = -(-len(values) // width)
    groups = [sorted(values[start : start + step]) for start in range(0, len(values), step)]
    picked = [group[len(group) // 2] for group in groups]
    low, high = min(picked), max(picked)
    # What hardly moves is drawn flat: a plot that always fills its height makes noise look like growth.
    span = max(high - low, 0.01 * abs(high), 1e-9)
    return "".join(_LEVELS[min(len(_LEVELS) - 1, int((value - low) / span * len(_LEVELS)))] for value in picked)
