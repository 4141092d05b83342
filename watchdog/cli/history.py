"""`proxywatch history`: what went wrong, what was done about it and who decided what, in one timeline."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from watchdog.cli import text
from watchdog.cli.arguments import duration
from watchdog.cli.control import control_of

DAY_SECONDS = 86400.0


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    history = commands.add_parser("history", parents=[common], help="what happened and what was done, oldest first")
    history.add_argument("--since", type=duration, default=DAY_SECONDS, metavar="24h", help="how far back (24h)")
    history.add_argument("--target", metavar="T", help="only what concerns it, such as worker:llm-proxy/0")
    history.set_defaults(do=_history)


def _history(options: argparse.Namespace) -> int:
    shape = control_of(options).get("/v1/history", since=options.since, target=options.target)
    if options.json:
        text.say_json(shape)
    elif not shape["lines"]:
        text.say(f"nothing happened in the last {text.span(options.since)}")
    else:
        text.say(_lines(shape["lines"]))
    return 0


def _lines(happenings: list[dict[str, Any]]) -> Iterator[str]:
    """A heading for each day, then time, incident, target, kind and what happened; long ones go on below."""
    rows = [_row(one) for one in happenings]
    days = [text.clock_time(one["at"], date=True).partition(" ")[0] for one in happenings]
    for index, day in enumerate(days):
        if index and days[index - 1] == day:
            continue
        yield text.heading(day)
        yield from text.columns((row for row, its in zip(rows, days, strict=True) if its == day), wrap_last=True)


def _row(one: dict[str, Any]) -> list[str]:
    incident = f"#{one['incident']}" if one["incident"] else ""
    about = f"{one['target']}: " if one["target"] else ""
    return [text.clock_time(one["at"]), incident, one["kind"].replace("_", " "), about + one["text"]]
