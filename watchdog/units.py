"""Durations and sizes as people write them in configuration."""

from __future__ import annotations

import re
from fractions import Fraction

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_BYTES = {"B": 1}
_BYTES.update({unit + "B": 1000**power for power, unit in enumerate("KMGT", start=1)})
_BYTES.update({unit + "iB": 1024**power for power, unit in enumerate("KMGT", start=1)})


def parse_duration(value: object) -> float:
    """Seconds from `500ms`, `30s`, `5m`, `1h30m`, `2d`; a bare 0 is allowed, any other bare number is not."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        return 0.0
    if isinstance(value, str):
        position, seconds = 0, 0.0
        while match := _DURATION.match(value, position):
            seconds += float(match[1]) * _SECONDS[match[2]]
            position = match.end()
        if position and position == len(value):
            return seconds
    raise ValueError(f"expected a duration such as 30s, 5m or 1h30m, not {value!r}")


def parse_size(value: object) -> int:
    """Bytes from `512KiB`, `64MiB`, `2GB`; a bare 0 is allowed, any other bare number is not."""
    if isinstance(value, int) and not isinstance(value, bool) and value == 0:
        return 0
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return int(Fraction(match[1]) * _BYTES[match[2]])
    raise ValueError(f"expected a size such as 512KiB, 64MiB or 2GB, not {value!r}")


def format_duration(seconds: float) -> str:
    """`830ms`, `4.2s`, `3m 20s`, `2h 5m`, `3d 4h`: two units at most, for people."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s".replace(".0s", "s")
    whole = round(seconds)
    for name, size, below, below_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // below_size
            return f"{whole // size}{name} {rest}{below}" if rest else f"{whole // size}{name}"
    return f"{whole}s"


def format_bytes(value: float) -> str:
    """`512 B`, `3.2 MiB`, `1.0 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
