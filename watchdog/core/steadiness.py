"""Does a target stay well once it is: flapping (Nagios' weighted share of changes) and chronic self-healing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

SLOTS = 20
"""Nagios looks at the last 21 results, which are 20 places for a change."""
_OLDEST_WEIGHT, _NEWEST_WEIGHT = 0.8, 1.2


@dataclass(frozen=True, slots=True)
class Trouble:
    """One incident of a target: unhealthy from `opened_at` to `resolved_at` (None: still)."""

    opened_at: float
    resolved_at: float | None


@dataclass(frozen=True, slots=True)
class Steadiness:
    """The numbers. Ratios of changed slots, weighted; durations in seconds."""

    slot: float = 60.0
    """A slot counts as changed if the target fell ill or got well in it."""
    flapping_above: float = 0.5
    calm_below: float = 0.25
    chronic_count: int = 5
    chronic_window: float = 86_400.0
    chronic_well: float = 4 * 3600.0
    """Having been well for so long in between starts the count anew."""


STEADINESS = Steadiness()
"""The defaults."""


_STEP = (_NEWEST_WEIGHT - _OLDEST_WEIGHT) / (SLOTS - 1)
_WEIGHTS = tuple(_OLDEST_WEIGHT + _STEP * index for index in range(SLOTS))
_WHOLE = sum(_WEIGHTS)


def changed_slots(troubles: Iterable[Trouble], now: float, slot: float) -> frozenset[int]:
    """The numbers of the slots in which the target fell ill or got well. Slots begin at multiples of their length.
    What is dated in the future has not happened."""
    times = (at for t in troubles for at in (t.opened_at, t.resolved_at) if at is not None and at <= now)
    return frozenset(int(at // slot) for at in times)


def change_share(changed: frozenset[int], newest: int) -> float:
    """The weighted share of changed slots among the last ones up to `newest`, 0 to 1: the newest counts half as much
    again as the oldest (Nagios, "Detection and Handling of State Flapping")."""
    oldest = newest - SLOTS + 1
    return sum(_WEIGHTS[number - oldest] for number in changed if oldest <= number <= newest) / _WHOLE


def flapping_until(troubles: Sequence[Trouble], now: float, numbers: Steadiness) -> float | None:
    """When it will count as calm again if nothing happens any more; None if it does not flap.

    It flaps once the share is above `flapping_above`, and until it is below `calm_below`: so the past is replayed from
    as far back as any slot reaches.
    """
    if 2 * len(troubles) < numbers.flapping_above * SLOTS / _NEWEST_WEIGHT:
        return None  # Even if each end of each trouble fell into a slot of its own, they would not be enough.
    changed = changed_slots(troubles, now, numbers.slot)
    present = int(now // numbers.slot)
    flapping = False
    for number in range(present - 2 * SLOTS, present + 1):
        flapping = change_share(changed, number) >= (numbers.calm_below if flapping else numbers.flapping_above)
    if not flapping:
        return None
    while change_share(changed, present) >= numbers.calm_below:
        present += 1
    return present * numbers.slot


def chronic(healed_at: Sequence[float], troubles: Sequence[Trouble], now: float, numbers: Steadiness) -> int | None:
    """How often it was healed lately without ever being well for long, if that is often enough to be chronic.

    `healed_at` are the ends of troubles that a repair of ours ended.
    """
    since = now - numbers.chronic_window
    for earlier, later in pairwise(troubles):
        if earlier.resolved_at is not None and later.opened_at - earlier.resolved_at >= numbers.chronic_well:
            since = max(since, earlier.resolved_at)
    count = sum(since < at <= now for at in healed_at)
    return count if count >= numbers.chronic_count else None
