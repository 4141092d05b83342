"""`proxywatch explain`: why something was done, why it was not, and when it will be."""

from __future__ import annotations

import argparse
from typing import Any

from watchdog.cli import text
from watchdog.cli.control import control_of


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    explain = commands.add_parser("explain", parents=[common], help="why, why not, and when")
    explain.add_argument("what", nargs="?", metavar="ID|TARGET", help="an incident's number, or worker:SERVICE/SLOT …")
    explain.set_defaults(do=_explain)


def _explain(options: argparse.Namespace) -> int:
    what = options.what
    asked = {} if what is None else {"incident": what} if what.isdigit() else {"target": what}
    shape = control_of(options).get("/v1/explain", timeout=10.0, **asked)
    if options.json:
        text.say_json(shape)
        return 0
    text.say(f"paused by {pause}" for pause in shape["paused"])
    if not shape["subjects"]:
        text.say("nothing is wrong: there is no unresolved incident")
    for index, subject in enumerate(shape["subjects"]):
        text.say([""] * (index > 0) + lines(subject, shape["now"]))
    if shape["left_out"]:
        text.say(["", f"and {shape['left_out']} more: name an incident or a target to see its reasons"])
    return 0


def lines(subject: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One subject: its target, then a sentence a line, then what was done."""
    incident = subject["incident"]
    head = text.heading(subject["target"])
    state = f"  incident {incident['id']} is {incident['state']}" if incident else ""
    found = [head + state]
    for sentence in subject["sentences"]:
        found += [("  " if not i else "    ") + line for i, line in enumerate(text.folded(sentence, text.width() - 4))]
    if subject["done"]:
        found.append("  Done so far:")
        rows = [
            [text.ago(d["at"], now) + " ago", d["rung"], d["action"], d["outcome"] or "under way", d["note"]]
            for d in subject["done"]
        ]
        found += text.columns(rows, indent=4)
    return found
