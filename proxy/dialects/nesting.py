"""How deep JSON is nested. What orjson reads may be four times as deep as what it writes (254 levels)."""

from __future__ import annotations

from typing import Any

import orjson

DEEPEST = 200
"""Levels of objects and arrays. No request needs as many, and a translation adds less than are left."""
_WRITABLE = 254


def loads(text: bytes | str) -> Any:
    """The JSON value; orjson.JSONDecodeError if it is none, ValueError (its parent) if it is deeper than `DEEPEST`."""
    value = orjson.loads(text)
    if is_too_deep(value):
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    return value


def is_too_deep(value: Any) -> bool:
    """Whether a value that orjson has read has more levels than `DEEPEST`. To write it costs less than to look.

    Not for several threads at once."""
    _innermost.append(value)
    try:
        orjson.dumps(_AROUND)
    except TypeError:
        return True
    finally:
        _innermost.clear()
    return False


def _lists(levels: int) -> tuple[list[Any], list[Any]]:
    """The outermost and the innermost of so many lists, one in the other."""
    outer: list[Any] = []
    inner = outer
    for _ in range(levels - 1):
        inner.append([])
        inner = inner[0]
    return outer, inner


_AROUND, _innermost = _lists(_WRITABLE - DEEPEST)
