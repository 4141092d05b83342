"""What leaks, from what was observed: Python objects, native memory, the allocator's free space, or no memory at all.

Pure. Growth while tracing is of a slowed process at a reduced share, and swollen by the traces themselves; so it says
where memory goes, and what the process does untraced says how fast. Growth per request joins the two where requests are
counted; else time does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from watchdog.memory.findings import LeakKind, Observation, Place, Reading, Verdict, confidence_word
from watchdog.memory.growth import FEWEST_REQUESTS, Growing, growing, requests_between, traced_growth
from watchdog.memory.packages import OWN, package_of
from watchdog.memory.resources import growing_resource, leading_to, resource_places
from watchdog.system.memory_answers import Heap
from watchdog.units import format_bytes, format_duration

HOUR = 3600.0
LEAST_BYTES = 256 * 1024
"""Growth of a whole process below that is its breathing."""
_FRAGMENTED_BYTES = 8 * 1024 * 1024
_MOST_LINES = 5
"""Of memory, beside another kind of thing that leaks and takes it."""
_MOSTLY = 0.5
_CONVINCING = 0.5
"""Less is «low», and chance may have done it."""
_HARMLESS = {
    "warm_up": "a warm-up that ends",
    "plateau": "a plateau",
    "saw_tooth": "a saw-tooth, as of a cache that is emptied or of the collector",
    "step": "one step, as of a big request",
    "traffic": "as much as the traffic asks for",
}
"""Shapes of the series that are no leak, in words."""


@dataclass(frozen=True, slots=True)
class _Pace:
    """How fast the process usually grows, untraced; each None where it is not known."""

    bytes_per_hour: float | None
    requests_per_hour: float | None
    from_series: bool


def judge(observation: Observation) -> Verdict:
    """The conclusion. Lines' functions and texts are left for whoever can read the files."""
    pace = _pace(observation)
    lines = growing(observation.comparisons, observation.survivors)
    places = _places(lines, observation, pace)
    remarks = [*observation.notes, *_remarks(observation, places)]
    resource = growing_resource(observation)
    if resource is not None:
        return _of_resource(*resource, observation, places, remarks)
    harmless = _HARMLESS.get(observation.trend.shape or "")
    if harmless is not None:
        remarks.insert(0, f"its memory over the last hours is {harmless}")
        places = tuple(_doubted(place) for place in places)
    named = _sum(place.bytes_per_hour for place in places)
    explained = min(1.0, named / pace.bytes_per_hour) if named and pace.bytes_per_hour else None
    sure = bool(places) and places[0].confidence >= _CONVINCING
    if not harmless and not (sure and (explained is None or explained >= _MOSTLY)):
        other = _of_allocator(observation, pace, lines, remarks)
        if other is not None:
            return other
    if not sure:
        return _nothing(observation, pace, places, remarks)
    per_hour = pace.bytes_per_hour or named
    confidence = places[0].confidence
    if explained is not None and explained >= _MOSTLY:
        confidence += (1 - confidence) / 2
        places = tuple(_surer(place) for place in places)
    return Verdict(
        LeakKind.PYTHON,
        f"{_said(places[0], observation)}; confidence {confidence_word(confidence)}",
        confidence,
        places,
        per_hour,
        _sum(place.bytes_per_request for place in places),
        observation.trend.seconds_to_limit,
        explained,
        tuple(remarks),
    )


def _pace(observation: Observation) -> _Pace:
    """By the series of the last hours where there is one, else by the readings before tracing."""
    first, last = (observation.quiet[0], observation.quiet[-1]) if observation.quiet else (None, None)
    hours = (last.at - first.at) / HOUR if first and last else 0.0
    requests = _requests(first, last)
    per_hour = requests / hours if requests is not None and requests >= FEWEST_REQUESTS and hours > 0 else None
    harmless = (observation.trend.shape or "") in _HARMLESS
    by_series = None if harmless else observation.trend.bytes_per_hour
    if by_series is not None and by_series > 0:
        return _Pace(by_series, per_hour, True)
    grown = last.memory.anon_bytes - first.memory.anon_bytes if first and last and not harmless else 0
    return _Pace(grown / hours if grown >= LEAST_BYTES and hours > 0 else None, per_hour, False)


def _requests(first: Reading | None, last: Reading | None) -> int | None:
    if first is None or last is None or first.memory.requests is None or last.memory.requests is None:
        return None
    return last.memory.requests - first.memory.requests


def _places(lines: Sequence[Growing], observation: Observation, pace: _Pace) -> tuple[Place, ...]:
    requests = requests_between(observation.comparisons)
    hours = sum(each.seconds for each in observation.comparisons) / HOUR
    rate = _rate(lines, requests, hours, pace)
    return tuple(
        Place(
            line.file,
            line.line,
            package_of(line.file),
            line.grown_bytes,
            line.grown_count,
            line.confidence,
            rate(line.grown_bytes),
            line.grown_bytes / requests if requests and requests >= FEWEST_REQUESTS else None,
            traceback=line.traceback,
            remark="a full collection gives it back: cycles that the collector reaches late" if line.cyclic else "",
        )
        for line in lines
    )


def _rate(lines: Sequence[Growing], requests: int | None, hours: float, pace: _Pace) -> Callable[[int], float | None]:
    """Bytes while tracing → bytes an hour at the usual pace. Whether a leak goes with requests or with time, no single
    line tells; the sum of them does, by which of the two comes nearer to how the process really grows."""
    by_time = 1 / hours if hours > 0 else None
    by_request = (
        pace.requests_per_hour / requests
        if pace.requests_per_hour is not None and requests is not None and requests >= FEWEST_REQUESTS
        else None
    )
    total = sum(line.grown_bytes for line in lines)
    known = [factor for factor in (by_request, by_time) if factor is not None]
    usual = pace.bytes_per_hour
    if not known:
        return lambda _size: None
    factor = known[0] if usual is None else min(known, key=lambda one: abs(one * total - usual))
    return lambda size: size * factor


def _of_resource(
    kind: LeakKind, grown: int, confidence: float, observation: Observation, lines: Sequence[Place], remarks: list[str]
) -> Verdict:
    places = resource_places(kind, observation, lines, confidence)
    to_whom = leading_to(observation) if kind in (LeakKind.SOCKETS, LeakKind.DESCRIPTORS) else ""
    more = f"{grown:,} more {kind} in {format_duration(observation.ended_at - observation.began_at)}"
    if places:
        first = places[0]
        said = f"{first.where}: {more}: {first.remark}"
    else:
        said = f"{observation.target}: {more}; where they are made is not known"
    said += f"; {to_whom}" if to_whom else ""
    return Verdict(
        kind,
        f"{said}; confidence {confidence_word(confidence)}",
        confidence,
        (*places, *lines[:_MOST_LINES]),
        seconds_to_limit=observation.trend.seconds_to_limit,
        remarks=tuple(remarks),
    )


def _of_allocator(
    observation: Observation, pace: _Pace, lines: Sequence[Growing], remarks: list[str]
) -> Verdict | None:
    """Native growth or fragmentation, where that is what the process grows by; None else."""
    free = _fragmentation(observation, pace)
    if free:
        sentence = f"{observation.target}: no object leaks; {free}; confidence medium"
        return Verdict(
            LeakKind.FRAGMENTATION,
            sentence,
            0.6,
            bytes_per_hour=pace.bytes_per_hour,
            seconds_to_limit=observation.trend.seconds_to_limit,
            remarks=tuple(remarks),
        )
    native = _native(observation, lines)
    if native is None:
        return None
    size, requests, hours, confidence = native
    per_hour = pace.bytes_per_hour if pace.bytes_per_hour is not None else size / hours
    per_request = size / requests if requests and requests >= FEWEST_REQUESTS else None
    rates = f"{format_bytes(per_hour)} an hour" + (f", {format_bytes(per_request)} a request" if per_request else "")
    sentence = (
        f"{observation.target}: native memory grows by {rates}, and what Python traces does not:"
        f" look at extensions and the libraries under them; confidence {confidence_word(confidence)}"
    )
    return Verdict(
        LeakKind.NATIVE,
        sentence,
        confidence,
        bytes_per_hour=per_hour,
        bytes_per_request=per_request,
        seconds_to_limit=observation.trend.seconds_to_limit,
        remarks=tuple(remarks),
    )


def _fragmentation(observation: Observation, pace: _Pace) -> str:
    """What shows that free memory is held rather than used memory kept; empty if nothing does."""
    trim = observation.trimmed
    if trim is not None:
        back = trim.before_bytes - trim.after_bytes
        # A saw-tooth of the heap is usual; a tenth of the whole, and half an hour's growth, is not.
        much = max(_FRAGMENTED_BYTES, 0.1 * trim.before_bytes, _MOSTLY * (pace.bytes_per_hour or 0.0) / 2)
        if back >= much:
            return f"malloc_trim gave back {format_bytes(back)} of {format_bytes(trim.before_bytes)}: fragmentation"
    if len(observation.censuses) >= 2:
        first, last = observation.censuses[0].pymalloc, observation.censuses[-1].pymalloc
        if first is not None and last is not None:
            arenas, used = last.arenas_bytes - first.arenas_bytes, last.in_use_bytes - first.in_use_bytes
            if arenas >= _FRAGMENTED_BYTES and used < (1 - _MOSTLY) * arenas:
                return (
                    f"Python's arenas grew by {format_bytes(arenas)} and hold {format_bytes(used)} more: fragmentation"
                )
    return ""


def _native(observation: Observation, lines: Sequence[Growing]) -> tuple[int, int | None, float, float] | None:
    """Bytes, requests, hours and confidence of growth that no trace explains; both phases must show it."""
    if len(observation.quiet) < 2 or len(observation.traced) < 2 or not observation.comparisons:
        return None
    untraced = _unexplained(observation.traced, traced_growth(observation.comparisons))
    first, last = observation.quiet[0], observation.quiet[-1]
    quiet = _used(last) - _used(first)
    hours, traced_hours = (last.at - first.at) / HOUR, (observation.traced[-1].at - observation.traced[0].at) / HOUR
    if hours <= 0 or traced_hours <= 0 or quiet < LEAST_BYTES:
        return None
    requests, traced_requests = _requests(first, last), requests_between(observation.comparisons)
    counted = requests is not None and traced_requests is not None and min(requests, traced_requests) >= FEWEST_REQUESTS
    # As much as the quiet phase grew by, in the measure of the traced one.
    ratio = (traced_requests or 0) / (requests or 1) if counted else traced_hours / hours
    expected = quiet * ratio
    named = sum(line.grown_bytes for line in lines)
    if untraced < (1 - _MOSTLY) * expected or named > _MOSTLY * expected:
        return None
    confidence = 0.85 if untraced >= LEAST_BYTES and named < 0.1 * expected else 0.65
    return quiet, requests, hours, confidence


def _unexplained(phase: Sequence[Reading], traced: int) -> int:
    """Growth of a phase that is neither traced nor what keeping the traces takes."""
    tables = [reading.memory.tracing.table_bytes if reading.memory.tracing else 0 for reading in (phase[0], phase[-1])]
    return _used(phase[-1]) - _used(phase[0]) - max(0, traced) - max(0, tables[1] - tables[0])


def _used(reading: Reading) -> int:
    """What malloc has given out, which free space does not blur; anonymous memory where malloc does not say."""
    heap: Heap | None = reading.memory.heap
    return heap.used_bytes if heap is not None else reading.memory.anon_bytes


def _nothing(observation: Observation, pace: _Pace, places: Sequence[Place], remarks: list[str]) -> Verdict:
    collected = observation.collected
    back = collected.before_bytes - collected.after_bytes if collected is not None else 0
    looked = format_duration(observation.ended_at - observation.began_at)
    if pace.bytes_per_hour is not None and not pace.from_series and not places:
        grown = f" although the process grew by {format_bytes(pace.bytes_per_hour)} an hour meanwhile"
    else:
        grown = ""
    said = f"{observation.target}: nothing that keeps growing was found in {looked}{grown}"
    if collected is not None and back >= _FRAGMENTED_BYTES:
        said += f"; a full collection gave back {format_bytes(back)}"
    if places:
        said += f"; {places[0].where} grew by {format_bytes(places[0].grown_bytes)}, which may be chance"
    return Verdict(
        LeakKind.NONE,
        said,
        0.5,
        tuple(places),
        pace.bytes_per_hour,
        seconds_to_limit=observation.trend.seconds_to_limit,
        remarks=tuple(remarks),
    )


def _remarks(observation: Observation, places: Sequence[Place]) -> list[str]:
    found = []
    collected = observation.collected
    if collected is not None:
        back = max(0, collected.before_bytes - collected.after_bytes)
        found.append(f"a full collection found {collected.collected:,} objects and gave back {format_bytes(back)}")
        if collected.uncollectable:
            found.append(f"{collected.uncollectable:,} objects cannot be collected at all")
    if observation.trimmed is not None:
        back = max(0, observation.trimmed.before_bytes - observation.trimmed.after_bytes)
        found.append(f"malloc_trim gave back {format_bytes(back)}")
    if len(observation.censuses) >= 2 and (types := growing_types(observation)):
        found.append("more objects of " + ", ".join(f"{name} ({count:+,})" for name, count in types[:5]))
    if places and all(place.package != OWN for place in places) and observation.frames == 1:
        found.append("the line is not the service's own: deeper frames on a drained worker would say who calls it")
    if observation.longest_pause_ms:
        found.append(f"the longest pause that the diagnosis caused was {observation.longest_pause_ms:.0f} ms")
    return found


def growing_types(observation: Observation) -> list[tuple[str, int]]:
    """Types of which the second census counted more than the first, most first."""
    before = {(t.module, t.type): t.count for t in observation.censuses[0].types}
    more = [
        (f"{t.module}.{t.type}" if t.module and t.module != "builtins" else t.type, t.count - known)
        for t in observation.censuses[-1].types
        if (known := before.get((t.module, t.type))) is not None
    ]
    return sorted(((name, count) for name, count in more if count > 0), key=lambda one: -one[1])


def _said(place: Place, observation: Observation) -> str:
    """`/srv/app/cache.py:41 keeps 3.2 MiB an hour, 1.1 KiB a request, 14,000 objects more`."""
    if place.bytes_per_hour is not None:
        parts = [f"{format_bytes(place.bytes_per_hour)} an hour"]
    else:
        parts = [f"{format_bytes(place.grown_bytes)} in {format_duration(observation.ended_at - observation.began_at)}"]
    if place.bytes_per_request is not None:
        parts.append(f"{format_bytes(place.bytes_per_request)} a request")
    parts.append(f"{place.grown_count:,} objects more")
    return f"{place.where} keeps {', '.join(parts)}"


def _doubted(place: Place) -> Place:
    return replace(place, confidence=min(place.confidence, 0.4))


def _surer(place: Place) -> Place:
    return replace(place, confidence=place.confidence + (1 - place.confidence) / 2)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
