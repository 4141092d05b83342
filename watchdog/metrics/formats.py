"""How numbers are printed in templates: Go's `%v` and `%g`, and Prometheus' `humanize` helpers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

_VERB = re.compile(r"%([-+ 0#]*)(\d+)?(?:\.(\d+))?([a-zA-Z%])")
_LARGE = ("k", "M", "G", "T", "P", "E", "Z", "Y")
_SMALL = ("m", "u", "n", "p", "f", "a", "z", "y")


def number(value: object) -> float:
    """A number from a number or from its text. Raises ValueError."""
    if isinstance(value, float | int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        return float(value)
    raise ValueError(f"expected a number, not {value!r}")


def shown(value: object) -> str:
    """A value as an action prints it (Go's `%v`): floats in the fewest digits, exponents from 1e21 on."""
    match value:
        case bool():
            return "true" if value else "false"
        case float() | int():
            return _shortest(float(value))
        case Mapping():
            return f"map[{' '.join(f'{key}:{value[key]}' for key in sorted(value))}]"
        case _:
            return str(value)


def _not_finite(value: float) -> str:
    return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"


def _shortest(value: float) -> str:
    if not math.isfinite(value):
        return _not_finite(value)
    if value != 0 and not 1e-4 <= abs(value) < 1e21:
        mantissa, _, exponent = (repr(value) if "e" in repr(value) else f"{value:e}").partition("e")
        if "e" not in repr(value):
            mantissa = mantissa.rstrip("0")
        return f"{mantissa.removesuffix('.0').removesuffix('.')}e{int(exponent):+03d}"
    text = repr(value)
    return f"{value:.0f}" if "e" in text else text.removesuffix(".0")


def general(value: float, digits: int = 4) -> str:
    """Go's `%.4g`."""
    return f"{value:.{digits}g}" if math.isfinite(value) else _not_finite(value)


def humanize(value: float) -> str:
    """With a decimal prefix: `1.234M`, `5m`."""
    return _prefixed(value, "")


def _prefixed(value: float, unit: str) -> str:
    if value == 0 or not math.isfinite(value):
        return general(value) + unit * bool(value == 0)
    prefix = ""
    if abs(value) >= 1:
        for step in _LARGE:
            if abs(value) < 1000:
                break
            prefix, value = step, value / 1000
    else:
        for step in _SMALL:
            if abs(value) >= 1:
                break
            prefix, value = step, value * 1000
    return general(value) + prefix + unit


def humanize1024(value: float) -> str:
    """With a binary prefix: `1.5Gi`."""
    if abs(value) <= 1 or not math.isfinite(value):
        return general(value)
    prefix = ""
    for step in ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"):
        if abs(value) < 1024:
            break
        prefix, value = step, value / 1024
    return general(value) + prefix


def humanize_duration(value: float) -> str:
    """Seconds as `1d 2h 3m 4s`, `1.5s`, `20ms`."""
    if not math.isfinite(value) or abs(value) < 1:
        return _prefixed(value, "s")
    sign, whole = ("-" if value < 0 else ""), int(abs(value))
    days, hours, minutes, seconds = whole // 86400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    if days:
        return f"{sign}{days}d {hours}h {minutes}m {seconds}s"
    if hours:
        return f"{sign}{hours}h {minutes}m {seconds}s"
    if minutes:
        return f"{sign}{minutes}m {seconds}s"
    return f"{sign}{general(abs(value))}s"


def printf(template: object, *values: object) -> str:
    """Go's Printf for %s %v %q %d %f %g %e %x %t %%. Raises ValueError for another verb or a missing value."""
    rest = list(values)

    def fill(verb: re.Match[str]) -> str:
        flags, width, precision, kind = verb.groups()
        if kind == "%":
            return "%"
        if not rest:
            raise ValueError(f"no value for {verb[0]}")
        return _padded(_verb(kind, precision, flags, rest.pop(0)), flags, width)

    text = _VERB.sub(fill, str(template))
    if rest:
        raise ValueError(f"{len(rest)} more values than verbs in {template!r}")
    return text


def _verb(kind: str, precision: str | None, flags: str, value: object) -> str:
    match kind:
        case "s" | "v":
            text = shown(value)
            return text[: int(precision)] if precision and kind == "s" else text
        case "q":
            return '"' + shown(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
        case "t" if isinstance(value, bool):
            return shown(value)
        case "f" | "e" | "g":
            amount = number(value)
            if not math.isfinite(amount):
                return _not_finite(amount)
            if kind == "g" and precision is None:
                return _shortest(amount)
            return f"{amount:{'+' if '+' in flags else ''}.{precision or 6}{kind}}"
        case "d" | "x" if number(value).is_integer():
            return f"{int(number(value)):{'+' if '+' in flags and kind == 'd' else ''}{kind}}"
        case _:
            raise ValueError(f"%{kind} does not print {value!r}")


def _padded(text: str, flags: str, width: str | None) -> str:
    if width is None:
        return text
    if "-" in flags:
        return text.ljust(int(width))
    return text.zfill(int(width)) if "0" in flags else text.rjust(int(width))
