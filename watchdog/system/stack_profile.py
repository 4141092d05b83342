"""A profile out of stack dumps: where a Python process was in each of many looks at it, as faulthandler writes them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$')
_WAITING = {
    ("runners.py", "run"),  # an event loop in C between two callbacks
    ("base_events.py", "run_forever"),
    ("selectors.py", "select"),
    ("threading.py", "wait"),
    ("threading.py", "_wait_for_tstate_lock"),
    ("thread.py", "_worker"),
    ("queue.py", "get"),
    ("socketserver.py", "serve_forever"),
    ("connection.py", "wait"),
}
"""Files and functions in which a thread waits for work. A call from there into C looks the same."""


@dataclass(frozen=True, slots=True)
class Place:
    """A function in which threads were found running, with its most frequent line; how often; and its most frequent
    caller (empty: nobody)."""

    where: str
    caller: str
    seen: int


@dataclass(frozen=True, slots=True)
class StackProfile:
    """`busy` counts the dumps in which any thread was running; `places` are sorted by how often they were seen."""

    dumps: int
    busy: int
    places: tuple[Place, ...]


def profile_of(dumps: Iterable[str]) -> StackProfile:
    """Threads that wait for work do not count."""
    total, busy = 0, 0
    places: Counter[tuple[str, str]] = Counter()
    lines: dict[tuple[str, str], Counter[str]] = {}
    callers: dict[tuple[str, str], Counter[str]] = {}
    for dump in dumps:
        total += 1
        running = [stack for stack in _stacks(dump) if not _waits(stack[0])]
        busy += bool(running)
        for stack in running:
            function = (stack[0][1], stack[0][3])
            places[function] += 1
            lines.setdefault(function, Counter())[_shown(stack[0])] += 1
            callers.setdefault(function, Counter())[_shown(stack[1]) if len(stack) > 1 else ""] += 1
    found = (Place(_most(lines[one]), _most(callers[one]), seen) for one, seen in places.most_common())
    return StackProfile(total, busy, tuple(found))


def _most(counter: Counter[str]) -> str:
    return counter.most_common(1)[0][0]


def _stacks(dump: str) -> list[list[re.Match[str]]]:
    """The frames of each thread, innermost first."""
    stacks: list[list[re.Match[str]]] = []
    for line in dump.splitlines():
        if line.endswith("(most recent call first):"):
            stacks.append([])
        elif stacks and (frame := _FRAME.match(line)):
            stacks[-1].append(frame)
    return [stack for stack in stacks if stack]


def _waits(frame: re.Match[str]) -> bool:
    return (PurePosixPath(frame[1]).name, frame[3]) in _WAITING


def _shown(frame: re.Match[str]) -> str:
    return f"{'/'.join(PurePosixPath(frame[1]).parts[-2:])}:{frame[2]} {frame[3]}"
