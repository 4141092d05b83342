"""How deep JSON is nested. What is read of it may be four times as deep as what orjson writes (254 levels)."""

from __future__ import annotations

from typing import Any

import orjson

DEEPEST = 128
"""Levels of objects and arrays. No request needs as many, and a translation adds less than are left."""


def loads(text: bytes | str) -> Any:
    """The JSON value; orjson.JSONDecodeError if it is none, ValueError (its parent) if it is deeper than `DEEPEST`."""
    value = orjson.loads(text)
    opened = text.count(b"{") + text.count(b"[") if isinstance(text, bytes) else text.count("{") + text.count("[")
    if opened > DEEPEST and is_too_deep(value):
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    return value


def is_too_deep(value: Any) -> bool:
    """Whether it is an object or array of more levels than `DEEPEST`."""
    level = [value] if value.__class__ is dict or value.__class__ is list else []
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if outer.__class__ is dict else outer)
            if inner.__class__ is dict or inner.__class__ is list
        ]
        if not level:
            return False
    return True
