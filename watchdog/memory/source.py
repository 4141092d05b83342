"""What stands at a line: the function around it and its text, read from the file where that can be read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from watchdog.core.masking import mask
from watchdog.memory.findings import Place

_MOST_BYTES = 2_000_000
_LINE_CHARACTERS = 200
_DEFINITION = re.compile(r"\s*(?:async\s+def|def|class)\s+(\w+)")


def with_source(places: Iterable[Place]) -> tuple[Place, ...]:
    """The places with `function` and `source` where the files can be read; blocks on the disk."""
    return tuple(_completed(place) for place in places)


def _completed(place: Place) -> Place:
    file = Path(place.file)
    if not place.line or not file.is_absolute():
        return place
    try:
        if file.stat().st_size > _MOST_BYTES:
            return place
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return place
    lines = text.splitlines()
    if place.line > len(lines):
        return place
    return replace(
        place, source=mask(lines[place.line - 1].strip()[:_LINE_CHARACTERS]), function=_function(lines, place.line)
    )


def _function(lines: Sequence[str], line: int) -> str:
    """`Class.method` around a line, by indentation, which every version of Python understands alike; empty at the top
    of a module, and for what is not Python."""
    names: list[str] = []
    room = _indentation(lines[line - 1])
    for text in reversed(lines[: line - 1]):
        if not text.strip() or _indentation(text) >= room:
            continue
        room = _indentation(text)
        if found := _DEFINITION.match(text):
            names.append(found[1])
    return ".".join(reversed(names))


def _indentation(text: str) -> int:
    return len(text) - len(text.lstrip())
