"""`command`: one program, such as any Nagios plugin: its exit status, and the figures that it prints behind a `|`.

`command_status` (0 ok, 1 warning, 2 critical, 3 unknown, as the Monitoring Plugins Development Guidelines have it; any
other status counts as 3), `command_exit_code`, and of each figure `command_perfdata{label,unit}` in base units (s, B,
and ratios for %; c is a counter) with `command_perfdata_warning`, `_critical` (both the upper ends of their ranges),
`_minimum` and `_maximum` where they are given. At most 100 figures, from 16 KiB; the note is the first line of text.
Fails when it cannot be started, is killed, is not done in time, or exits with 3 or above: then nothing was measured.
What it says with 1 or 2 is a measurement, and a rule's business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from watchdog.core.model import Labels, Measurement, Sample, labels_of
from watchdog.errors import ActionError, ProbeError
from watchdog.probes import MeasurementError, ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration
from watchdog.system.command import OUTPUT_LIMIT, run_command

UNKNOWN = 3
_MOST_FIGURES = 100
_MOST_CHARACTERS = 200
_SEARCHED_CHARACTERS = 16 * 1024
# Every repeat is bounded, so that no output makes the search slow.
_FIGURE = re.compile(
    r"""(?: '((?:[^'\n]|''){1,100})' | ([^\s'=]{1,100}) )
    = ([-+]?[0-9.]{1,40}(?:[eE][-+]?[0-9]{1,3})?|U) ([A-Za-z%]{0,20}) ((?:;[^\s;]{0,60}){0,4})""",
    re.VERBOSE,
)
_UNITS = {
    "s": ("s", 1.0), "ms": ("s", 1e-3), "us": ("s", 1e-6), "ns": ("s", 1e-9), "%": ("ratio", 0.01),
    "B": ("B", 1.0), "KB": ("B", 1024.0), "MB": ("B", 1024.0**2), "GB": ("B", 1024.0**3), "TB": ("B", 1024.0**4),
}  # fmt: skip
_LIMITS = ("warning", "critical", "minimum", "maximum")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a plugin in its base unit. `limits` are those that were given, by name."""

    label: str
    unit: str
    value: float
    limits: tuple[tuple[str, float], ...] = ()


class CommandProbeSettings(ProbeSettings):
    """No shell stands between: `argv` is what the program gets."""

    kind: Literal["command"]
    interval: Duration = Field(60.0, ge=0.05)
    timeout: Duration = Field(10.0, gt=0)
    argv: tuple[str, ...] = Field(min_length=1)


@probes.register(CommandProbeSettings)
class CommandProbe:
    """See the module."""

    def __init__(self, settings: CommandProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._name = context.name

    async def measure(self) -> Measurement:
        try:
            # The end is left to us: the wrapper's own timeout would say less.
            result = await run_command(self._settings.argv, timeout=self._settings.timeout * 0.95)
        except ActionError as error:
            raise ProbeError(str(error)) from error
        note, figures = parse_output(result.output)
        status = result.status if 0 <= result.status < UNKNOWN else UNKNOWN
        samples = (
            Sample("command_status", status, labels_of(command=self._name)),
            Sample("command_exit_code", result.status, labels_of(command=self._name)),
            *(sample for figure in figures for sample in _samples(figure, labels_of(command=self._name))),
        )
        if result.status < 0:
            raise MeasurementError(f"{self._settings.argv[0]}: killed by signal {-result.status}", samples)
        if status == UNKNOWN:
            said = note or "it said nothing"
            raise MeasurementError(f"{self._settings.argv[0]}: exit {result.status}: {said}", samples)
        return Measurement(samples, note)


def parse_output(output: str) -> tuple[str, tuple[Figure, ...]]:
    """The first line's text, and the figures: behind the first line's `|`, and behind the one `|` of what follows,
    to the end. Of two with one name the first counts; what does not look like a figure is passed over."""
    first, _, rest = output[:OUTPUT_LIMIT].lstrip("\n").partition("\n")
    text, _, figures = first.partition("|")
    _, _, more = rest.partition("|")
    found: dict[tuple[str, str], Figure] = {}
    for figure in _figures(f"{figures}\n{more}"):
        found.setdefault((figure.label, figure.unit), figure)
        if len(found) >= _MOST_FIGURES:
            break
    return text.strip()[:_MOST_CHARACTERS], tuple(found.values())


def _figures(text: str) -> Iterator[Figure]:
    for quoted, plain, number, unit, limits in _FIGURE.findall(text[:_SEARCHED_CHARACTERS]):
        base, factor = _UNITS.get(unit, (unit, 1.0))
        value = _number(number)
        if value is not None:
            given = zip(_LIMITS, map(_upper_end, limits.split(";")[1:]), strict=False)
            kept = tuple((name, limit * factor) for name, limit in given if limit is not None)
            label = quoted.replace("''", "'") or plain
            yield Figure(label.strip()[:_MOST_CHARACTERS], base, value * factor, kept)


def _upper_end(text: str) -> float | None:
    """Of a range such as `10`, `5:10`, `@5:10`; None for one that is open upwards, or none at all."""
    return _number(text.removeprefix("@").rpartition(":")[2])


def _number(text: str) -> float | None:
    """None for what is none, `U` (undetermined) included."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _samples(figure: Figure, own: Labels) -> Iterator[Sample]:
    labels = labels_of(dict(own), label=figure.label, unit=figure.unit)
    yield Sample("command_perfdata", figure.value, labels)
    for name, value in figure.limits:
        yield Sample(f"command_perfdata_{name}", value, labels)
