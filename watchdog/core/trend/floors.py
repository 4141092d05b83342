"""A long history made short: the floor of each stretch of time, and the valleys between teeth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from watchdog.core.trend.judgement import Point

MOST_BLOCKS = 24
FEWEST_BLOCKS = 8
_POINTS_PER_BLOCK = 3
_LOW_SHARE = 0.2
_POINTS_LOOKED_AT = 480
_TOOTH_SHARE = 0.35
_TOOTH_QUANTA = 4
_TOOTH_CHANGES = 4
_STEEPER = 3.0
_FEWEST_TEETH = 3
_POINTS_PER_RISE = 4
_GRADUAL = 0.35


@dataclass(frozen=True, slots=True)
class Floor:
    """The value that a stretch around `time` did not go below, but for a fifth of its points; `requests` at its middle
    and their `rate` per second within it are None where they are not known."""

    time: float
    value: float
    requests: float | None
    rate: float | None


@dataclass(frozen=True, slots=True)
class Teeth:
    """Rises that end in sudden falls: how long one lasts on average, and the valleys after each fall."""

    period: float
    valleys: tuple[Point, ...]


def in_order(points: Sequence[Point]) -> list[Point]:
    """The points of the process that runs now, each later than the one before.

    A counter of requests that falls tells of a new process, which has nothing to do with what was before.
    """
    kept: list[Point] = []
    for point in points:
        if kept and point.time <= kept[-1].time:
            continue  # a clock that went back, or two readings of one instant
        if kept and (point.requests or 0.0) < (kept[-1].requests or 0.0):
            kept.clear()
        if math.isfinite(point.value):
            kept.append(point)
    return kept


def floors(points: Sequence[Point], most: int = MOST_BLOCKS) -> list[Floor]:
    """Stretches of equal length in time, at most so many; one without a point is left out."""
    start, span = points[0].time, points[-1].time - points[0].time
    count = min(most, max(FEWEST_BLOCKS, len(points) // _POINTS_PER_BLOCK))
    groups: list[list[Point]] = [[] for _ in range(count)]
    for point in points:
        groups[min(count - 1, int((point.time - start) / span * count))].append(point)
    known = all(point.requests is not None for point in points)
    filled = [group for group in groups if group]
    rates = _rates(filled) if known else [None] * len(filled)
    return [_floor(group, rate) for group, rate in zip(filled, rates, strict=True)]


def _floor(group: Sequence[Point], rate: float | None) -> Floor:
    values = sorted(point.value - point.explained for point in group)
    middle = (group[0].time + group[-1].time) / 2
    requests = None if rate is None else ((group[0].requests or 0.0) + (group[-1].requests or 0.0)) / 2
    return Floor(middle, values[int(_LOW_SHARE * (len(values) - 1))], requests, rate)


def _rates(groups: Sequence[Sequence[Point]]) -> list[float]:
    """Requests per second from the end of the stretch before to the end of this one."""
    ends = [group[-1] for group in groups]
    later = [
        ((own.requests or 0.0) - (before.requests or 0.0)) / (own.time - before.time) for before, own in pairwise(ends)
    ]
    first, last = groups[0][0], ends[0]
    length = last.time - first.time
    return [((last.requests or 0.0) - (first.requests or 0.0)) / length if length else later[0], *later]


def teeth(points: Sequence[Point], quantum: float) -> Teeth | None:
    """The teeth of a saw, if it is one: at least three falls of a third of the whole range, each much shorter than the
    rise before it. What swings as long downwards as upwards is none."""
    step = max(1, math.ceil(len(points) / _POINTS_LOOKED_AT))
    chosen = points[::step]
    values = [point.value - point.explained for point in chosen]
    ordered = sorted(values)
    edge = len(ordered) // 50
    usual = median(abs(later - own) for own, later in pairwise(values))
    height = max(_TOOTH_SHARE * (ordered[-1 - edge] - ordered[edge]), _TOOTH_QUANTA * quantum, _TOOTH_CHANGES * usual)
    turns = _turns(values, height)
    falls = [(peak, valley) for peak, valley in pairwise(turns) if values[valley] < values[peak]]
    rises = [(valley, peak) for valley, peak in pairwise(turns) if values[valley] < values[peak]]
    if len(falls) < _FEWEST_TEETH or not rises:
        return None
    halfway = median(_halfway(values, valley, peak) for valley, peak in rises)
    rising = sum(peak - valley for valley, peak in rises) / len(rises)
    falling = sum(valley - peak for peak, valley in falls) / len(falls)
    if rising < max(_STEEPER * falling, _POINTS_PER_RISE) or halfway < _GRADUAL:
        return None
    valleys = [valley for _, valley in falls]
    period = (chosen[valleys[-1]].time - chosen[valleys[0]].time) / (len(valleys) - 1)
    return Teeth(period, tuple(chosen[valley] for valley in valleys))


def _halfway(values: Sequence[float], valley: int, peak: int) -> float:
    """How much of a rise has been done in the middle of its time: half of it by a tooth, little by a spike."""
    middle = (valley + peak) // 2
    near = sorted(values[max(valley, middle - 1) : middle + 2])
    return (near[len(near) // 2] - values[valley]) / (values[peak] - values[valley])


def _turns(values: Sequence[float], height: float) -> list[int]:
    """Places of peaks and valleys in turn, of which each is at least `height` away from the one before."""
    turns: list[int] = []
    low = high = 0
    rising: bool | None = None
    for place, value in enumerate(values):
        if value > values[high]:
            high = place
        if value < values[low]:
            low = place
        if rising is not False and values[high] - value >= height:
            turns.append(high)
            rising, low = False, place
            high = place
        elif rising is not True and value - values[low] >= height:
            turns.append(low)
            rising, high = True, place
            low = place
    if rising is not None:
        turns.append(high if rising else low)
    return turns
