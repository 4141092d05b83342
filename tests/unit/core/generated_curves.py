"""Histories of memory as they are drawn for the table of confusions: each from a seed, with its truth.

One unit of noise is one standard deviation in bytes; `size` says how far a leak rises within the window, in such units.
`PYTHONPATH=. python tests/unit/core/generated_curves.py 150` prints the table of docs/memory-leaks.md.
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from watchdog.core.trend import Point, Shape, judge

MIB = 1024 * 1024
INTERVAL = 30.0

Draw = Callable[["Scene"], list[float]]


@dataclass(frozen=True, slots=True)
class Scene:
    """What a curve is drawn with: places from 0 to 1 in the window, the rate of requests at each, and the noise."""

    random: random.Random
    places: Sequence[float]
    rates: Sequence[float]
    noise: Sequence[float]
    deviation: float
    size: float

    @property
    def rise(self) -> float:
        """Bytes by which a leak rises within the window."""
        return max(4 * MIB, self.size * self.deviation)

    @property
    def served(self) -> list[float]:
        """The share of the window's requests that has been served at each place."""
        done, total = [], 0.0
        for rate in self.rates:
            total += rate
            done.append(total)
        return [one / total for one in done]


@dataclass(frozen=True, slots=True)
class Family:
    """Curves of one kind. `truths` are the verdicts that are right, the first the best; `alike` the share of the window
    over which its noise resembles itself; `traffic` how the load goes; `size` what a leak must measure at least."""

    name: str
    truths: tuple[Shape, ...]
    draw: Draw
    alike: tuple[float, float] = (0.0, 0.0)
    traffic: str = "steady"
    size: tuple[float, float] = (5.0, 30.0)

    @property
    def leaks(self) -> bool:
        """Whether it must be found."""
        return self.truths[0] is Shape.LEAK


def curve(family: Family, seed: int) -> list[Point]:
    """One history of the family, always the same for the same seed: half an hour to six hours, some with gaps."""
    chance = random.Random(f"{family.name} {seed}")
    count = chance.choice((60, 120, 240, 480, 720))
    times = [INTERVAL * place + chance.uniform(-3, 3) for place in range(count)]
    if chance.random() < 0.3:
        hole = chance.randrange(count // 4, count * 3 // 4)
        times = times[:hole] + times[hole + count // 10 :]
    places = [(time - times[0]) / (times[-1] - times[0]) for time in times]
    deviation = chance.choice((0.1, 0.5, 2.0, 5.0)) * MIB
    rates = _rates(chance, places, family.traffic)
    noise = _noise(chance, places, deviation, chance.uniform(*family.alike))
    size = chance.uniform(*family.size)
    scene = Scene(chance, places, rates, noise, deviation, size)
    base = chance.uniform(40, 400) * MIB
    values = [base + drawn + wave for drawn, wave in zip(family.draw(scene), noise, strict=True)]
    requests = _counted(chance, times, rates)
    return [
        Point(time, 4096.0 * round(value / 4096), count)
        for time, value, count in zip(times, values, requests, strict=True)
    ]


def _rates(chance: random.Random, places: Sequence[float], traffic: str) -> list[float]:
    mean = chance.uniform(1, 200)
    match traffic:
        case "steady":
            return [mean * chance.uniform(0.9, 1.1) for _ in places]
        case "waves":
            turns, phase = chance.uniform(0.7, 4), chance.uniform(0, 6.28)
            return [
                mean * (1 + 0.8 * math.sin(6.28 * turns * place + phase)) * chance.uniform(0.9, 1.1) for place in places
            ]
        case "ramp":
            return [mean * (0.2 + 1.8 * place) * chance.uniform(0.9, 1.1) for place in places]
        case _:  # by day: nothing before and after
            begin, end = chance.uniform(0.05, 0.4), chance.uniform(0.6, 0.95)
            return [mean * chance.uniform(0.7, 1.3) if begin < place < end else 0.01 for place in places]


def _counted(chance: random.Random, times: Sequence[float], rates: Sequence[float]) -> list[float]:
    total, before, found = float(chance.randrange(1000)), times[0], []
    for time, rate in zip(times, rates, strict=True):
        total += rate * (time - before)
        before = time
        found.append(float(round(total)))
    return found


def _noise(chance: random.Random, places: Sequence[float], deviation: float, alike: float) -> list[float]:
    """Normal, each value like its predecessor so that the resemblance has faded to a third after `alike`; some with
    spikes upwards, as big requests make them."""
    spikes = chance.random() < 0.3
    value, before, found = chance.gauss(0, 1), 0.0, []
    for place in places:
        kept = math.exp(-(place - before) / alike) if alike else 0.0
        value = kept * value + math.sqrt(1 - kept * kept) * chance.gauss(0, 1)
        before = place
        spike = chance.expovariate(1 / 8) if spikes and chance.random() < 0.1 else 0.0
        found.append(deviation * (value + spike))
    return found


def _line(scene: Scene) -> list[float]:
    return [scene.rise * place for place in scene.places]


def _late(scene: Scene) -> list[float]:
    knot = scene.random.uniform(0.2, 0.6)
    return [scene.rise * max(0.0, place - knot) / (1 - knot) for place in scene.places]


def _by_request(scene: Scene) -> list[float]:
    return [scene.rise * served for served in scene.served]


def _in_pieces(scene: Scene) -> list[float]:
    piece = scene.rise / scene.random.uniform(8, 40)
    return [piece * (scene.rise * place // piece) for place in scene.places]


def _after_warm_up(scene: Scene) -> list[float]:
    height, settling = scene.rise * scene.random.uniform(0.5, 3), scene.random.uniform(0.02, 0.12)
    return [height * (1 - math.exp(-place / settling)) + scene.rise * place for place in scene.places]


def _teeth(scene: Scene, height: float, fewest: float, most: float) -> list[float]:
    count, phase = scene.random.uniform(fewest, most), scene.random.random()
    return [height * ((count * place + phase) % 1) for place in scene.places]


def _leak_with_short_teeth(scene: Scene) -> list[float]:
    height = scene.rise * scene.random.uniform(0.1, 0.6)
    return [a + b for a, b in zip(_line(scene), _teeth(scene, height, 25, 60), strict=True)]


def _leak_with_long_teeth(scene: Scene) -> list[float]:
    height = scene.rise * scene.random.uniform(0.2, 0.6)
    return [a + b for a, b in zip(_line(scene), _teeth(scene, height, 8, 16), strict=True)]


def _leak_and_traffic(scene: Scene) -> list[float]:
    top, height = max(scene.rates), scene.rise * scene.random.uniform(0.3, 1)
    return [height * rate / top + scene.rise * place for place, rate in zip(scene.places, scene.rates, strict=True)]


def _leak_after_step(scene: Scene) -> list[float]:
    at, height = scene.random.uniform(0.1, 0.9), scene.rise * scene.random.uniform(0.2, 0.5)
    return [scene.rise * place + height * (place > at) for place in scene.places]


def _nothing(scene: Scene) -> list[float]:
    return [0.0 for _ in scene.places]


def _saturating(scene: Scene) -> list[float]:
    settling = scene.random.uniform(0.02, 0.5)
    return [scene.rise * (1 - math.exp(-place / settling)) for place in scene.places]


def _logarithm(scene: Scene) -> list[float]:
    tail = 10 ** scene.random.uniform(-2.5, -0.7)
    return [scene.rise * math.log1p(place / tail) / math.log1p(1 / tail) for place in scene.places]


def _until_full(scene: Scene) -> list[float]:
    full = scene.random.uniform(0.3, 0.85)
    return [scene.rise * min(1.0, place / full) for place in scene.places]


def _one_step(scene: Scene) -> list[float]:
    at = scene.random.uniform(0.05, 0.95)
    return [scene.rise * (place > at) for place in scene.places]


def _two_steps(scene: Scene) -> list[float]:
    first, second = sorted(scene.random.uniform(0.05, 0.95) for _ in range(2))
    return [scene.rise * ((place > first) + (place > second)) / 2 for place in scene.places]


def _with_traffic(scene: Scene) -> list[float]:
    top = max(scene.rates)
    return [scene.rise * rate / top for rate in scene.rates]


def _highest_traffic(scene: Scene) -> list[float]:
    top, highest, found = max(scene.rates), 0.0, []
    for rate in scene.rates:
        highest = max(highest, rate)
        found.append(scene.rise * highest / top)
    return found


def _short_teeth(scene: Scene) -> list[float]:
    return _teeth(scene, scene.rise, 25, 60)


def _long_teeth(scene: Scene) -> list[float]:
    return _teeth(scene, max(scene.rise, 8 * scene.deviation), 3, 16)


def _fading(scene: Scene) -> list[float]:
    settling = scene.random.uniform(0.05, 1.0)
    return [scene.rise * math.exp(-place / settling) for place in scene.places]


LEAK, WARM, SAW = (Shape.LEAK,), (Shape.WARM_UP,), (Shape.SAW_TOOTH,)
QUIET = (Shape.PLATEAU, Shape.NOISE)

QUANTUM = MIB / 4

FAMILIES = (
    Family("leak", LEAK, _line),
    Family("leak under noise that resembles itself", LEAK, _line, (0.005, 0.03), size=(10, 30)),
    Family("leak that began in the window", LEAK, _late, size=(8, 30)),
    Family("leak per request, waves of traffic", LEAK, _by_request, traffic="waves", size=(8, 30)),
    Family("leak per request, by day only", LEAK, _by_request, traffic="day", size=(8, 30)),
    Family("leak in pieces", LEAK, _in_pieces),
    Family("leak after a warm-up", LEAK, _after_warm_up, size=(20, 60)),
    Family("leak under short teeth", LEAK, _leak_with_short_teeth, size=(8, 30)),
    Family("leak under long teeth", LEAK, _leak_with_long_teeth, size=(12, 40)),
    Family("leak beside traffic", LEAK, _leak_and_traffic, traffic="waves", size=(8, 30)),
    Family("leak and a step", LEAK, _leak_after_step, size=(8, 30)),
    Family("constant", QUIET, _nothing),
    Family("noise that resembles itself", (Shape.NOISE, Shape.PLATEAU), _nothing, (0.01, 0.3)),
    Family("warm-up", WARM, _saturating),
    Family("warm-up with a long tail", WARM, _logarithm, size=(6, 60)),
    Family("cache until it is full", WARM, _until_full, size=(8, 30)),
    Family("step", (Shape.STEP,), _one_step),
    Family("two steps", (Shape.STEP,), _two_steps),
    Family("goes with traffic", (Shape.TRAFFIC,), _with_traffic, traffic="waves"),
    Family("goes with traffic that rises", (Shape.TRAFFIC,), _with_traffic, traffic="ramp", size=(8, 30)),
    Family(
        "keeps what the highest traffic took",
        (Shape.TRAFFIC, Shape.WARM_UP, Shape.STEP),
        _highest_traffic,
        traffic="waves",
    ),
    Family("short teeth", (Shape.SAW_TOOTH, *QUIET), _short_teeth),
    Family("long teeth", SAW, _long_teeth),
    Family("fading", QUIET, _fading),
)


def verdicts(family: Family, seeds: range) -> Counter[Shape]:
    """How often each shape was found in the curves of a family."""
    return Counter(judge(curve(family, seed), quantum=QUANTUM).shape for seed in seeds)


def table(seeds: range) -> str:
    """Truth by row, verdict by column, as Markdown."""
    lines = ["| drawn | " + " | ".join(Shape) + " |", "|---" * (len(Shape) + 1) + "|"]
    for family in FAMILIES:
        found = verdicts(family, seeds)
        lines.append(f"| {family.name} | " + " | ".join(str(found[shape] or "") for shape in Shape) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(range(int(sys.argv[1]))))
