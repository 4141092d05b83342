"""A finding in words: a line for whoever was woken, and the whole for whoever repairs it."""

from __future__ import annotations

from collections.abc import Iterator

from watchdog.core.masking import mask
from watchdog.memory.findings import Place, Verdict, confidence_word
from watchdog.units import format_bytes, format_duration


def told(verdict: Verdict, report: str = "") -> str:
    """The sentence, then one line for each place and everything else that is known; `report` is where more stands."""
    return mask("\n".join([verdict.sentence, *_details(verdict), *([f"report: {report}"] if report else [])]))


def place_line(place: Place) -> str:
    """`cache.py:41 in Cache.put (own code): +3.1 MiB, +14,000 objects, 3.2 MiB an hour; confidence high`."""
    function = f" in {place.function}" if place.function else ""
    figures = [f"{format_bytes(place.grown_bytes)} more"] if place.grown_bytes else []
    figures.append(f"{place.grown_count:,} more objects" if place.grown_bytes else f"{place.grown_count:,} more")
    if place.bytes_per_hour is not None:
        figures.append(f"{format_bytes(place.bytes_per_hour)} an hour")
    if place.bytes_per_request is not None:
        figures.append(f"{format_bytes(place.bytes_per_request)} a request")
    said = f"{place.where}{function} ({place.package}): {', '.join(figures)}"
    said += f"; confidence {confidence_word(place.confidence)}"
    return said + (f"; {place.remark}" if place.remark else "")


def _details(verdict: Verdict) -> Iterator[str]:
    for place in verdict.places:
        yield place_line(place)
        if place.source:
            yield f"    {place.source}"
        if len(place.traceback) > 1:
            yield from (f"    called from {file}:{line}" for file, line in place.traceback[1:6])
    if verdict.explained is not None:
        yield f"these lines explain {verdict.explained:.0%} of how the process grows"
    if verdict.bytes_per_hour is not None:
        yield f"the process grows by {format_bytes(verdict.bytes_per_hour)} an hour"
    if verdict.seconds_to_limit is not None:
        yield f"at this pace its limit is reached in {format_duration(verdict.seconds_to_limit)}"
    yield from verdict.remarks
