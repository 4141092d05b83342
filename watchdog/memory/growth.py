"""Which lines keep growing from snapshot to snapshot, and how sure that is. Pure.

A line is a candidate if it grew by more than a mebibyte in all, or in every interval. What grew once (a big request),
or grew and stopped (a cache that is full), or grows ever more slowly (a warm-up) is none. Over k intervals a line that
only fluctuates grows every time by a chance of 2^-k, which is where confidence begins; it is the greater the more even
the growth is, by requests or by time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from watchdog.memory.packages import nearest_own
from watchdog.system.memory_answers import Comparison, GrownLine

CANDIDATE_BYTES = 1024 * 1024
LEAST_BYTES = 16 * 1024
"""A steady growth below that is not told from chance."""
_SURE_BYTES = 64 * 1024
_ONE_OFF = 0.9
"""A line of which one interval made up so much grew once."""
_STOPPED = 0.25
"""A line whose last pace is below this part of its pace before has stopped."""
_SLOWING = 0.5
"""A line whose pace falls from interval to interval to this part of the first is warming up."""
_SURVIVES = 0.3
"""Of the growth of a line so much must survive a full collection; else the collector only has not come yet."""
_NAMED = 0.03
"""A line with a smaller part of the whole growth is not worth a name."""
_MOST_NAMED = 10
FEWEST_REQUESTS = 10
"""In an interval; with fewer of them growth per request says nothing."""

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Growing:
    """A place that keeps growing. `cyclic`: a full collection gives it back."""

    file: str
    line: int
    grown_bytes: int
    grown_count: int
    confidence: float
    cyclic: bool
    traceback: tuple[Key, ...]


def growing(comparisons: Sequence[Comparison], survivors: Comparison | None) -> tuple[Growing, ...]:
    """The places that keep growing, biggest growth first; `comparisons` are of neighbouring snapshots."""
    intervals = [_by_place(each.lines) for each in comparisons]
    surviving = _by_place(survivors.lines) if survivors is not None else None
    totals: dict[Key, int] = defaultdict(int)
    for interval in intervals:
        for key, (size, _count, _trace) in interval.items():
            totals[key] += size
    positive = sum(total for total in totals.values() if total > 0)
    found = [
        grown
        for key, total in totals.items()
        if total >= max(LEAST_BYTES, _NAMED * positive)
        and (grown := _judged(key, total, intervals, comparisons, surviving)) is not None
    ]
    leaks = [one for one in found if not one.cyclic]
    return tuple(sorted(leaks or found, key=lambda one: -one.grown_bytes)[:_MOST_NAMED])


def traced_growth(comparisons: Iterable[Comparison]) -> int:
    """Bytes by which traced memory grew over all intervals."""
    return sum(each.newer.traced_bytes - each.older.traced_bytes for each in comparisons)


def requests_between(comparisons: Iterable[Comparison]) -> int | None:
    """Requests over all intervals; None where they are not counted."""
    counts = [each.requests for each in comparisons]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _by_place(lines: Iterable[GrownLine]) -> dict[Key, tuple[int, int, tuple[Key, ...]]]:
    """Growth in bytes and objects by place: where several frames are known, the service's own code that is nearest."""
    found: dict[Key, tuple[int, int, tuple[Key, ...]]] = {}
    for line in lines:
        key = nearest_own(line.traceback) or (line.file, line.line)
        size, count, trace = found.get(key, (0, 0, line.traceback))
        found[key] = (size + line.grown_bytes, count + line.grown_count, trace)
    return found


def _judged(
    key: Key,
    total: int,
    intervals: Sequence[dict[Key, tuple[int, int, tuple[Key, ...]]]],
    comparisons: Sequence[Comparison],
    surviving: dict[Key, tuple[int, int, tuple[Key, ...]]] | None,
) -> Growing | None:
    grown = [interval.get(key, (0, 0, ()))[0] for interval in intervals]
    counts = [interval.get(key, (0, 0, ()))[1] for interval in intervals]
    rises = sum(size > 0 for size in grown)
    steady = rises == len(grown)
    if grown[-1] <= 0 or not (steady or (total >= CANDIDATE_BYTES and rises >= len(grown) - 1)):
        return None
    if len(grown) > 1 and max(grown) >= _ONE_OFF * total:
        return None
    by_time = [size / max(each.seconds, 1e-9) for size, each in zip(grown, comparisons, strict=True)]
    requests = [each.requests for each in comparisons]
    by_request = [size / count for size, count in zip(grown, requests, strict=True) if count is not None and count > 0]
    paces = [by_time]
    if len(by_request) == len(grown) and min(count or 0 for count in requests) >= FEWEST_REQUESTS:
        paces.append(by_request)
    if all(_ends(pace) for pace in paces):
        return None
    chance = 1 - 0.5 ** len(grown)
    evenness = max(_evenness(pace) for pace in paces)
    confidence = chance * (0.6 + 0.4 * evenness)
    if not steady:
        confidence *= 0.8
    if total < _SURE_BYTES or sum(counts) < len(counts):
        confidence *= 0.8
    kept = None if surviving is None else surviving.get(key, (0, 0, ()))[0]
    trace = next(interval[key][2] for interval in reversed(intervals) if key in interval)
    cyclic = kept is not None and kept < _SURVIVES * total
    return Growing(key[0], key[1], total, sum(counts), confidence, cyclic, trace)


def _ends(pace: Sequence[float]) -> bool:
    """Whether the growth has stopped or is ending."""
    if len(pace) < 2:
        return False
    before = sum(pace[:-1]) / (len(pace) - 1)
    falls = len(pace) > 2 and all(later < earlier for earlier, later in pairwise(pace))
    return pace[-1] < _STOPPED * before or (falls and pace[-1] < _SLOWING * pace[0])


def _evenness(pace: Sequence[float]) -> float:
    """1 where all intervals grew alike, 0 where one did not grow."""
    return max(0.0, min(pace)) / max(pace) if max(pace) > 0 else 0.0
