"""How things look on a terminal: words, columns and colours, never wider than 100 columns."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from watchdog.units import format_bytes, format_duration

WIDEST = 100
_CODES = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "dim": "2", "bold": "1"}
_COLOURS = {
    "critical": "red",
    "escalated": "red",
    "down": "red",
    "hung": "red",
    "failed": "red",
    "fail": "red",
    "backoff": "red",
    "warning": "yellow",
    "warn": "yellow",
    "healing": "yellow",
    "verifying": "yellow",
    "open": "yellow",
    "starting": "yellow",
    "draining": "yellow",
    "stopped": "yellow",
    "pending": "yellow",
    "unknown": "yellow",
    "ok": "green",
    "up": "green",
    "running": "green",
    "serving": "green",
    "resolved": "green",
    "info": "blue",
}


def colour_wanted() -> bool:
    """Whether standard output takes colours: a terminal, and nobody said NO_COLOR (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """`text` in a colour, or as it is where none are wanted."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if text and colour_wanted() else text


def state_colour(word: str) -> str:
    """The colour of a state or a severity; empty for one that needs none."""
    return _COLOURS.get(word, "")


def width() -> int:
    """Columns to write into."""
    try:
        return min(
            WIDEST, int(os.environ.get("COLUMNS") or os.get_terminal_size(sys.stdout.fileno()).columns) or WIDEST
        )
    except (OSError, ValueError):
        return WIDEST


def columns(
    rows: Iterable[Sequence[str]], indent: int = 0, *, wrap_last: bool = False, room: int | None = None
) -> list[str]:
    """Aligned lines, two blanks between columns. Words that are states get their colour. A line too long for `room`
    (the terminal's width if None) is cut at its end, or its last cell goes on below itself with `wrap_last`."""
    table = [list(row) for row in rows]
    if not table:
        return []
    count = max(len(row) for row in table)
    widths = [max((len(row[i]) for row in table if i < len(row) - 1), default=0) for i in range(count)]
    lines = []
    for row in table:
        start = indent + sum(widths[i] + 2 for i in range(len(row) - 1))
        space = max(20, (room or width()) - start)
        last = folded(row[-1], space) if wrap_last else [shortened(row[-1], space)]
        cells = [_painted(cell, widths[i]) + "  " for i, cell in enumerate(row[:-1])]
        first = " " * indent + "".join(cells) + _painted(last[0] if last else "", 0)
        lines += [first.rstrip(), *(" " * start + line for line in last[1:])]
    return lines


def _painted(cell: str, size: int) -> str:
    colour = state_colour(cell)
    return (paint(cell, colour) if colour else cell) + " " * (size - len(cell))


def shortened(text: str, room: int) -> str:
    """`text` on one line of at most `room` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= room else flat[: max(0, room - 1)] + "…"


def folded(text: str, room: int) -> list[str]:
    """`text` over several lines of at most `room` characters."""
    import textwrap

    return textwrap.wrap(text, room, break_on_hyphens=False) or [""]


def heading(text: str) -> str:
    """A line above a block."""
    return paint(text, "bold")


def say(lines: Iterable[str] | str) -> None:
    """Prints lines."""
    for line in [lines] if isinstance(lines, str) else lines:
        print(line)


def say_sentence(sentence: str) -> None:
    """Prints a sentence, folded to the terminal's width."""
    say(folded(sentence, width()))


def say_json(shape: object) -> None:
    """Prints one JSON document."""
    print(json.dumps(shape, indent=2, ensure_ascii=False, default=str))


def ago(at: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """`3m 20s` since `at`; a dash for never."""
    return "-" if at is None else format_duration(max(0.0, now["epoch"] - at["epoch"]))


def until(at: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """`in 3m 20s`, or `now`; empty without an end."""
    if at is None:
        return ""
    left = at["epoch"] - now["epoch"]
    return f"in {format_duration(left)}" if left > 0 else "now"


def clock_time(at: Mapping[str, Any], *, date: bool = False) -> str:
    """Local time of this machine, for reading beside other logs."""
    return datetime.fromtimestamp(at["epoch"]).astimezone().strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S")


def percent(ratio: float | None) -> str:
    """`12%`; a question mark for what is not known."""
    return "?" if ratio is None else f"{ratio:.0%}" if ratio >= 0.1 or ratio == 0 else f"{ratio:.1%}"


def size(value: float | None) -> str:
    """Bytes for people."""
    return "?" if value is None else format_bytes(value)


def span(value: float | None) -> str:
    """A duration for people."""
    return "?" if value is None else format_duration(value)


def count(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
