"""One entry in the journal's native protocol. Pure: fields in, bytes out."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """The datagram for these fields. A value with a line break is told by its length, so that no value can pretend to
    be a field of its own. Raises ValueError for a name that the journal would not take."""
    return b"".join(_field(name, value.encode(errors="replace")) for name, value in fields)


def _field(name: str, value: bytes) -> bytes:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a journal field: A to Z, 0 to 9 and _, a letter first, at most 64")
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
