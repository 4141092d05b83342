"""Which kind of thing besides memory grows: threads, tasks, sockets or descriptors, and where they are made. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from watchdog.memory.findings import LeakKind, Observation, Place, Reading
from watchdog.memory.packages import OWN, package_of

ORDER = (LeakKind.THREADS, LeakKind.TASKS, LeakKind.SOCKETS, LeakKind.DESCRIPTORS)
"""The more telling first: a socket is a descriptor, too, and a task may hold one."""
FEWEST = 5
"""So many more of a kind at least: fewer come and go with the callers."""
_SHARE = 0.05
"""And so large a part of what there was."""
_MOST_PLACES = 5
_WORTH_TELLING = 0.1
"""A place with a smaller part of what the first made is left out."""
_NEAR = 1.5

Named = tuple[str, str]


def growing_resource(observation: Observation) -> tuple[LeakKind, int, float] | None:
    """The kind that keeps growing, by how many, and how sure that is; None if none does. What an alert suspects is
    believed where it grew at all."""
    found = []
    for kind in ORDER:
        grown, confidence = _grown(kind, observation)
        if kind == observation.suspected and grown > 0:
            return kind, grown, max(confidence, 0.8)
        if confidence:
            found.append((kind, grown, confidence))
    return found[0] if found else None


def _grown(kind: LeakKind, observation: Observation) -> tuple[int, float]:
    """By how many, and the confidence that they keep growing; 0.0 where they do not."""
    chance, grown, keeps = 1.0, 0, True
    for phase in (observation.quiet, observation.traced):
        counts = [_count(reading, kind) for reading in phase]
        if len(counts) < 2:
            continue
        more = counts[-1] - counts[0]
        grown += more
        rises = [later > earlier for earlier, later in pairwise(counts)]
        keeps = keeps and all(rises) and more >= max(len(rises), _SHARE * counts[0])
        chance *= 0.5 ** len(rises)
    return grown, 1 - chance if keeps and grown >= FEWEST else 0.0


def _count(reading: Reading, kind: LeakKind) -> int:
    match kind:
        case LeakKind.THREADS:
            return reading.memory.threads
        case LeakKind.TASKS:
            return reading.memory.tasks
        case LeakKind.SOCKETS:
            return reading.memory.sockets
        case _:
            return reading.memory.descriptors


def resource_places(
    kind: LeakKind, observation: Observation, lines: Sequence[Place], confidence: float
) -> tuple[Place, ...]:
    """Where the things are made, most first; where that is not known, where they wait. One frame tells the library that
    makes them rather than who asked for them; so the service's own line among `lines` (those that keep growing) whose
    objects became as many more stands before it."""
    if len(observation.resources) < 2:
        return ()
    found = [_place(where, what, count, confidence) for (where, what), count in _grown_places(kind, observation)]
    telling = [place for place in found if place.grown_count >= _WORTH_TELLING * found[0].grown_count]
    if not telling or telling[0].package == OWN:
        return tuple(telling[:_MOST_PLACES])
    asking = _asking(kind, observation, lines)
    if asking is None:
        return tuple(telling[:_MOST_PLACES])
    first = replace(
        asking, grown_bytes=0, confidence=confidence, remark=telling[0].remark, grown_count=telling[0].grown_count
    )
    return (first, *telling[: _MOST_PLACES - 1])


def _asking(kind: LeakKind, observation: Observation, lines: Sequence[Place]) -> Place | None:
    """The line of the service's own that comes nearest to one object for each thing."""
    if len(observation.traced) < 2:
        return None
    made = _count(observation.traced[-1], kind) - _count(observation.traced[0], kind)
    waiting = {task.waiting_at for task in observation.resources[-1].tasks}
    near = [
        line
        for line in lines
        if line.package == OWN and line.where not in waiting and 1 / _NEAR <= line.grown_count / max(made, 1) <= _NEAR
    ]
    return min(near, key=lambda line: abs(line.grown_count - made), default=None)


def _grown_places(kind: LeakKind, observation: Observation) -> Sequence[tuple[Named, int]]:
    first, last = observation.resources[0], observation.resources[-1]
    match kind:
        case LeakKind.TASKS:
            named = [
                [((t.created_at or t.waiting_at or "", _task(t.what, t.waiting_at)), t.count) for t in each.tasks]
                for each in (first, last)
            ]
        case LeakKind.THREADS:
            named = [
                [((t.created_at or "", _thread(t.target)), t.count) for t in each.threads] for each in (first, last)
            ]
        case LeakKind.SOCKETS:
            named = [
                [((c.created_at, "sockets made here"), c.count) for c in each.sockets_created] for each in (first, last)
            ]
        case _:
            named = [
                [((c.created_at, "opened here"), c.count) for c in (*each.files_created, *each.sockets_created)]
                for each in (first, last)
            ]
    return _more(named[0], named[1])


def leading_to(observation: Observation) -> str:
    """To whom the sockets lead that have become more, and in which state they are; empty if that is not known."""
    if len(observation.resources) < 2:
        return ""
    first, last = observation.resources[0], observation.resources[-1]
    grown = _more(
        (((s.peer, s.state or s.kind), s.count) for s in first.sockets),
        (((s.peer, s.state or s.kind), s.count) for s in last.sockets),
    )
    return "; ".join(f"{count} more {state} to {peer or 'nobody'}" for (peer, state), count in grown[:3])


def _task(what: str, waiting_at: str | None) -> str:
    return f"tasks of {what}" + (f", which wait at {waiting_at}" if waiting_at else "")


def _thread(target: str | None) -> str:
    return f"threads that run {target}" if target else "threads"


def _more(before: Iterable[tuple[Named, int]], after: Iterable[tuple[Named, int]]) -> Sequence[tuple[Named, int]]:
    counts: dict[Named, int] = {}
    for name, count in after:
        counts[name] = counts.get(name, 0) + count
    for name, count in before:
        if name in counts:
            counts[name] -= count
    return sorted(((name, count) for name, count in counts.items() if count > 0 and name[0]), key=lambda one: -one[1])


def _place(where: str, what: str, count: int, confidence: float) -> Place:
    file, _, line = where.rpartition(":")
    known = bool(file) and line.isdecimal()
    path, number = (file, int(line)) if known else (where, 0)
    return Place(path, number, package_of(path), 0, count, confidence, remark=what)
