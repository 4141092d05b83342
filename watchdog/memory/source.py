"""What stands at a line: the function around it and its text, read from the file where that can be read."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from watchdog.core.masking import mask
from watchdog.memory.findings import Place

_MOST_BYTES = 2_000_000
_LINE_CHARACTERS = 200


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
        place, source=mask(lines[place.line - 1].strip()[:_LINE_CHARACTERS]), function=_function(text, place.line)
    )


def _function(text: str, line: int) -> str:
    """`Class.method` around a line; empty at the top of a module, and for what is not Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return ""
    names: list[str] = []
    body: list[ast.AST] = [tree]
    while body:
        node = body.pop()
        for child in ast.iter_child_nodes(node):
            if not getattr(child, "lineno", 0) <= line <= (getattr(child, "end_lineno", None) or 0):
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.append(child.name)
            body.append(child)
    return ".".join(names)
