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


def changes(troubles: Iterable[Trouble], now: float, slot: float) -> tuple[bool, ...]:
    """Whether each of the last slots saw a change, oldest first. Slots begin at multiples of their length, so that the
    answer moves only when one ends. Events in the future have not happened."""
    times = [at for t in troubles for at in (t.opened_at, t.resolved_at) if at is not None and at <= now]
    newest = int(now // slot)
    changed = {int(at // slot) for at in times}
    return tuple(number in changed for number in range(newest - SLOTS + 1, newest + 1))


def change_share(changed: Sequence[bool]) -> float:
    """The weighted share of changed slots, 0 to 1: the newest counts half as much again as the oldest (Nagios,
    "Detection and Handling of State Flapping")."""
    count = len(changed)
    step = (_NEWEST_WEIGHT - _OLDEST_WEIGHT) / max(1, count - 1)
    weights = [_OLDEST_WEIGHT + step * index for index in range(count)]
    return sum(weight for weight, is_changed in zip(weights, changed, strict=True) if is_changed) / sum(weights)


def flapping_until(troubles: Sequence[Trouble], now: float, numbers: Steadiness) -> float | None:
    """When it will count as calm again if nothing happens any more; None if it does not flap.

    It flaps once the share is above `flapping_above`, and until it is below `calm_below`: so the past is replayed from
    as far back as any slot reaches.
    """
    begin = int(now // numbers.slot) - 2 * SLOTS
    flapping = False
    for number in range(begin, int(now // numbers.slot) + 1):
        moment = min(now, (number + 1) * numbers.slot - numbers.slot / 1024)
        share = change_share(changes(troubles, moment, numbers.slot))
        flapping = share >= (numbers.calm_below if flapping else numbers.flapping_above)
    if not flapping:
        return None
    end = now
    while change_share(changes([t for t in troubles if t.opened_at <= now], end, numbers.slot)) >= numbers.calm_below:
        end = (end // numbers.slot + 1) * numbers.slot
    return end


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
