"""The text form of metrics: reads Prometheus' text format 0.0.4 and OpenMetrics 1.0, writes the former.

Comments, types, timestamps and exemplars are read over: a sample's time is the time at which it was scraped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from watchdog.core.model import Labels, Sample, labels_of

_HEAD = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*(\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?[ \t]*')
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(,|$)')
_ESCAPE = re.compile(r'\\([\\n"])')
_TAIL = re.compile(r"([^ \t#]+)(?:[ \t]+-?[0-9][0-9.eE+-]*)?[ \t]*(?:#.*)?")
_REMEMBERED = 8192

_heads: dict[str, tuple[str, Labels]] = {}
"""Name and labels by their text, since a scrape brings the same text every few seconds. Emptied when full."""


class ExpositionError(ValueError):
    """A line that is not in the format; `line` counts from 1."""

    def __init__(self, line: int, text: str, reason: str) -> None:
        shown = text if len(text) <= 80 else text[:77] + "..."
        super().__init__(f"line {line}: {reason}: {shown!r}")
        self.line = line


def parse_text(text: str) -> list[Sample]:
    """The samples of one scrape, in their order. Raises ExpositionError (a ValueError) for the first malformed line."""
    samples = []
    known = _heads
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or line[0] == "#":
            continue
        # The common line is `head value`: one split and one look-up; whatever else there is takes the grammar.
        head, _, rest = line.rpartition(" ")
        found = known.get(head)
        if found is not None and "_" not in rest:
            try:
                samples.append(Sample(found[0], float(rest), found[1]))
                continue
            except ValueError:
                pass
        sample = _parse_line(line, number)
        if sample is not None:
            samples.append(sample)
    return samples


def _parse_line(line: str, number: int) -> Sample | None:
    stripped = line.strip(" \t\r")
    if not stripped or stripped[0] == "#":
        return None
    match = _HEAD.match(stripped)
    if match is None:
        raise ExpositionError(number, line, "no metric name")
    tail = _TAIL.fullmatch(stripped, match.end())
    if tail is None:
        raise ExpositionError(number, line, "expected one value after the name and labels")
    try:
        value = float(tail[1].replace("_", "!"))
    except ValueError:
        raise ExpositionError(number, line, f"{tail[1]!r} is not a number") from None
    labels = _parse_labels(match[2] or "{}", number, line)
    head, _, rest = line.rpartition(" ")
    if rest == tail[1] and head == stripped[: match.end()].rstrip(" \t"):
        if len(_heads) >= _REMEMBERED:
            _heads.clear()
        _heads[head] = (match[1], labels)
    return Sample(match[1], value, labels)


def _parse_labels(braces: str, number: int, line: str) -> Labels:
    text = braces[1:-1].strip(" \t")
    labels: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _LABEL.match(text, position)
        if match is None:
            raise ExpositionError(number, line, 'expected label="value"')
        if match[1] in labels:
            raise ExpositionError(number, line, f"label {match[1]!r} stands twice")
        labels[match[1]] = _ESCAPE.sub(lambda escape: "\n" if escape[1] == "n" else escape[1], match[2])
        position = match.end()
    return labels_of(labels)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric of ours with its kind (`counter`, `gauge`, `histogram`, `untyped`), its help and its samples."""

    name: str
    kind: str
    help: str
    samples: Sequence[Sample]


def render_text(families: Iterable[Family]) -> str:
    """The families in Prometheus' text format 0.0.4, in the order given."""
    lines: list[str] = []
    for family in families:
        explained = family.help.replace("\\", "\\\\").replace("\n", "\\n")
        lines += [f"# HELP {family.name} {explained}", f"# TYPE {family.name} {family.kind}"]
        lines += [f"{one.name}{_render_labels(one.labels)} {_render_value(one.value)}" for one in family.samples]
    return "\n".join([*lines, ""])


def _render_labels(labels: Labels) -> str:
    if not labels:
        return ""
    pairs = (
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for name, value in labels
    )
    return "{" + ",".join(pairs) + "}"


def _render_value(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
