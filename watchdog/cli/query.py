"""`proxywatch query`: a PromQL expression over what the daemon has measured."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from watchdog.cli import text
from watchdog.cli.control import control_of


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    query = commands.add_parser("query", parents=[common], help="evaluate a PromQL expression now")
    query.add_argument("expr", metavar="EXPR")
    query.set_defaults(do=_query)


def _query(options: argparse.Namespace) -> int:
    shape = control_of(options).get("/v1/query", expr=options.expr)
    if options.json:
        text.say_json(shape)
    elif shape["type"] != "vector":
        text.say(value_text(shape["result"]))
    elif not shape["result"]:
        text.say("no series")
    else:
        rows = [[value_text(one["value"]), series_text(one["labels"])] for one in shape["result"]]
        size = max(len(value) for value, _ in rows)
        text.say(f"{value:>{size}}  {series}" for value, series in rows)
    return 0


def series_text(labels: Mapping[str, str]) -> str:
    """A series as Prometheus writes it."""
    pairs = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()) if name != "__name__")
    return labels.get("__name__", "") + (f"{{{pairs}}}" if pairs or "__name__" not in labels else "")


def value_text(value: object) -> str:
    """A number without needless digits."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)
