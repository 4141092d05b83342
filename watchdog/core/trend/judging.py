"""Which shape a history has. A leak is what no innocent curve explains as well, and what chance does not explain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from watchdog.core.trend.curves import Axis, Curve, Gallery
from watchdog.core.trend.fitting import certainty, inflation, likeness
from watchdog.core.trend.floors import FEWEST_BLOCKS, Floor, Teeth, floors, in_order, teeth
from watchdog.core.trend.judgement import Judgement, Point, Shape
from watchdog.core.trend.slope import sen_interval, theil_sen

_CERTAIN = 3.3
"""Standard deviations: one false alarm in two thousand if the residuals are what they are taken for."""
_SURE = 0.65
"""That the best leak explains the history better than the best innocent curve."""
_LEAST_QUANTA = 4.0
_LEAST_SHARE = 0.2
_FEWEST_VALLEYS = 6
_RATE_VARIES = 0.1
_FLAT_SHARE = 0.01


def judge(points: Sequence[Point], *, quantum: float = 1.0) -> Judgement:
    """What the history of one figure of one process looks like, and how fast it grows.

    Looked at is the floor: what the figure did not go below in each of up to 24 stretches, or the valleys where it is a
    saw whose teeth are longer; what is `explained` is taken away first. `quantum` is the figure's grain (1 for things
    that are counted): growth below four grains is none. Times may be irregular; points that go back in time are
    passed over, and a counter of requests that falls begins the history anew.
    """
    history = in_order(points)
    if len(history) < FEWEST_BLOCKS:
        return Judgement(Shape.UNKNOWN)
    window = history[-1].time - history[0].time
    saw = teeth(history, quantum)
    ground = _ground(history, saw, window)
    if len(ground) < FEWEST_BLOCKS - 2:
        return Judgement(Shape.UNKNOWN, window=window)
    values = [floor.value for floor in ground]
    if max(values) - min(values) < _LEAST_QUANTA * quantum:
        return _measured(Shape.SAW_TOOTH if saw else Shape.PLATEAU, ground, 0.0, 1.0, 1.0, window)
    gallery = _gallery(ground, quantum)
    innocent, leak = gallery.best(), gallery.best(Shape.LEAK)
    assert innocent is not None, "a constant can always be fitted"
    least = quantum * quantum / 12
    alike = likeness((leak or innocent).fit.residuals, len((leak or innocent).columns))
    deviations = 0.0
    if leak is not None and leak.rising is not None:
        deviations = certainty(leak.columns, values, leak.rising, alike, least)
    weight = _weight(innocent.score - leak.score) if leak is not None else 0.0
    p = min(1.0, math.erfc(deviations / math.sqrt(2)))
    if leak is not None and deviations >= _CERTAIN and weight > _SURE and _matters(leak, quantum):
        return _measured(Shape.LEAK, [one for one in ground if _since(one, ground, leak)], alike, p, weight, window)
    return _measured(_innocent_shape(innocent, ground, saw, quantum), ground, alike, p, 1 - weight, window)


def _ground(history: Sequence[Point], saw: Teeth | None, window: float) -> list[Floor]:
    found = floors(history)
    if saw is None or saw.period <= window / len(found):
        return found
    if len(saw.valleys) < _FEWEST_VALLEYS:
        return found
    valleys = saw.valleys
    rates = [
        ((later.requests or 0.0) - (one.requests or 0.0)) / (later.time - one.time) for one, later in pairwise(valleys)
    ]
    known = all(valley.requests is not None for valley in valleys)
    return [
        Floor(valley.time, valley.value - valley.explained, valley.requests, rate if known else None)
        for valley, rate in zip(valleys, [rates[0], *rates], strict=True)
    ]


def _gallery(ground: Sequence[Floor], quantum: float) -> Gallery:
    gallery = Gallery([floor.value for floor in ground], quantum * quantum / 12)
    times = _scaled([floor.time for floor in ground])
    axes = [Axis(times, times)]
    rates = [floor.rate for floor in ground if floor.rate is not None]
    varies = len(rates) == len(ground) and max(rates) > 0 and _spread(rates) > _RATE_VARIES * sum(rates) / len(rates)
    if varies:
        requests = [floor.requests or 0.0 for floor in ground]
        axes.append(Axis(_scaled(requests), times, by_requests=True))
    gallery.flat()
    for axis in axes:
        gallery.growing(axis)
    if varies:
        gallery.traffic(rates, axes)
        gallery.traffic(_records(rates), axes)
    gallery.steps()
    return gallery


def _scaled(values: Sequence[float]) -> list[float]:
    start, span = values[0], values[-1] - values[0]
    return [(value - start) / span for value in values] if span else [0.0] * len(values)


def _records(values: Sequence[float]) -> list[float]:
    highest, found = values[0], []
    for value in values:
        highest = max(highest, value)
        found.append(highest)
    return found


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


def _weight(advantage: float) -> float:
    """How likely the curve with so much the lower score is, of two."""
    return 1 / (1 + math.exp(-max(-700.0, min(700.0, advantage)) / 2))


def _matters(leak: Curve, quantum: float) -> bool:
    assert leak.rising is not None
    rises = [
        coefficient * (max(column) - min(column))
        for coefficient, column in zip(leak.fit.coefficients, leak.columns, strict=True)
    ]
    return rises[leak.rising] >= max(_LEAST_QUANTA * quantum, _LEAST_SHARE * sum(rises))


def _since(floor: Floor, ground: Sequence[Floor], leak: Curve) -> bool:
    return floor.time >= ground[0].time + leak.since * (ground[-1].time - ground[0].time)


def _innocent_shape(innocent: Curve, ground: Sequence[Floor], saw: Teeth | None, quantum: float) -> Shape:
    if saw is not None:
        return Shape.SAW_TOOTH
    if innocent.shape is not Shape.NOISE:
        return innocent.shape
    values = [floor.value for floor in ground]
    level = abs(sum(values) / len(values))
    return Shape.PLATEAU if _spread(values) <= max(quantum, _FLAT_SHARE * level) else Shape.NOISE


def _measured(
    shape: Shape, ground: Sequence[Floor], alike: float, p: float, confidence: float, window: float
) -> Judgement:
    points = [(floor.time, floor.value) for floor in ground]
    line = theil_sen(points)
    interval = sen_interval(points, inflation=inflation(alike))
    assert line is not None, "floors stand at different times"
    assert interval is not None, "as many slopes as the line has"
    known = [(floor.requests, floor.value) for floor in ground if floor.requests is not None]
    each = theil_sen(known) if len(known) == len(ground) else None
    return Judgement(
        shape, line.slope, interval.low, interval.high, p, each.slope if each else None, confidence, window
    )
