"""Which kind of thing besides memory grows: threads, tasks, sockets or descriptors, and where they are made. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from watchdog.memory.findings import LeakKind, Observation, Place, Reading
from watchdog.memory.packages import package_of

ORDER = (LeakKind.THREADS, LeakKind.TASKS, LeakKind.SOCKETS, LeakKind.DESCRIPTORS)
"""The more telling first: a socket is a descriptor, too, and a task may hold one."""
FEWEST = 5
"""So many more of a kind at least: fewer come and go with the callers."""
_SHARE = 0.05
"""And so large a part of what there was."""
_MOST_PLACES = 5


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


def resource_places(kind: LeakKind, observation: Observation, confidence: float) -> tuple[Place, ...]:
    """Where the things are made, most first; where that is not known, where they wait or to whom they lead."""
    if len(observation.resources) < 2:
        return ()
    first, last = observation.resources[0], observation.resources[-1]
    match kind:
        case LeakKind.TASKS:
            grown = _more(
                (((t.created_at or t.waiting_at or "", _task(t.what, t.waiting_at)), t.count) for t in first.tasks),
                (((t.created_at or t.waiting_at or "", _task(t.what, t.waiting_at)), t.count) for t in last.tasks),
            )
        case LeakKind.THREADS:
            grown = _more(
                (((t.created_at or "", _thread(t.target)), t.count) for t in first.threads),
                (((t.created_at or "", _thread(t.target)), t.count) for t in last.threads),
            )
        case LeakKind.SOCKETS:
            grown = _more(
                (((c.created_at, "sockets made here"), c.count) for c in first.sockets_created),
                (((c.created_at, "sockets made here"), c.count) for c in last.sockets_created),
            )
        case _:
            grown = _more(
                (((c.created_at, "opened here"), c.count) for c in (*first.files_created, *first.sockets_created)),
                (((c.created_at, "opened here"), c.count) for c in (*last.files_created, *last.sockets_created)),
            )
    return tuple(_place(where, what, count, confidence) for (where, what), count in grown[:_MOST_PLACES])


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


Named = tuple[str, str]


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
