"""What one line of a log looks like. Whatever a field holds, it stays one line, and its fields stay what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@%+,;<>()[]{}*?!&$^~|#")


def compact(fields: Mapping[str, Any]) -> bytes:
    """JSON without spaces: the cheapest, for lines that come with each request."""
    try:
        return orjson.dumps(fields, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # text with lone surrogates, which are no UTF-8, or a number beyond 64 bits
        return spaced(fields)


def spaced(fields: Mapping[str, Any]) -> bytes:
    """JSON with a space behind each colon and comma, as most programs write it and people's patterns expect it."""
    return json.dumps(fields, default=str).encode() + b"\n"


def text(stamp: str, level: str, message: str, fields: Mapping[str, Any]) -> bytes:
    """For people. A value with anything but plain characters in it is quoted, so that it cannot pass for a field or a
    line of its own, nor speak to a terminal."""
    tail = "".join(f" {name}={_shown(value)}" for name, value in fields.items())
    return f"{stamp} {level:7} {_escaped(message)}{tail}\n".encode("utf-8", "backslashreplace")


def _shown(value: object) -> str:
    said = str(value)
    return said if said and _BARE.issuperset(said) else '"' + _escaped(said).replace('"', '\\"') + '"'


def _escaped(said: str) -> str:
    if said.isprintable() and "\\" not in said:
        return said
    return "".join(
        character
        if character.isprintable() and character != "\\"
        else character.encode("unicode_escape").decode("ascii")
        for character in said
    )
