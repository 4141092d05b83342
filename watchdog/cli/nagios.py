"""The line and exit code that Nagios and its descendants understand (Monitoring Plugins' guidelines)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import IntEnum

_UNITS = (("_seconds", "s"), ("_bytes", "B"), ("_total", "c"))
_AWKWARD = re.compile(r"[='|\s]+")
MANY = 40
"""Figures that one line holds."""


class Verdict(IntEnum):
    """Exit codes."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


def line(what: str, verdict: Verdict, text: str, figures: Iterable[str] = ()) -> str:
    """`PROXYWATCH CRITICAL - text | perfdata`, on one line."""
    flat = " ".join(text.replace("|", "/").split())
    shown = " ".join(list(figures)[:MANY])
    return f"{what} {verdict.name} - {flat}" + (f" | {shown}" if shown else "")


def figure(label: str, value: object, unit: str = "", warn: str = "", crit: str = "", low: str = "0") -> str:
    """`'label'=value[UOM];warn;crit;min;max`, trailing empty fields left out."""
    name = _AWKWARD.sub("_", label)
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name}={shown}{unit};{warn};{crit};{low}".rstrip(";")


def sample_figure(name: str, labels: Mapping[str, str], value: object) -> str:
    """A sample as perfdata: the labels become part of the name, the metric's suffix becomes the unit."""
    unit = next((unit for suffix, unit in _UNITS if name.endswith(suffix)), "")
    label = "_".join([name, *(f"{key}_{text}" for key, text in sorted(labels.items()))])
    return figure(label, "U" if isinstance(value, str) else value, unit, low="")
