"""`proxywatch approve` and `deny`: a person's word on a repair that waits for it."""

from __future__ import annotations

import argparse
from typing import Any

from watchdog.cli import text
from watchdog.cli.control import control_of


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the two commands."""
    for name, what in (("approve", "let a repair act that waits for it"), ("deny", "refuse it; the incident is yours")):
        command = commands.add_parser(name, parents=[common], help=what)
        command.add_argument("run", type=int, nargs="?", metavar="RUN", help="default: the only one that waits")
        command.set_defaults(do=_decide, verb=name)


def _decide(options: argparse.Namespace) -> int:
    control = control_of(options)
    run = options.run
    if run is None:
        waiting = control.get("/v1/status")["approvals"]
        if len(waiting) != 1:
            for one in waiting:
                text.say_sentence(asking(one))
            text.say("say which run is meant" if waiting else "no repair waits for a person")
            return 1
        run = waiting[0]["run"]
    shape = control.post(f"/v1/runs/{run}/{options.verb}")
    if options.json:
        text.say_json(shape)
        return 0
    done = "approved: it acts as soon as nothing else stands in its way" if options.verb == "approve" else "denied"
    text.say_sentence(f"run {shape['id']} of {shape['playbook']} on {shape['target']} {done}")
    if shape["incident"]:
        text.say(f"`proxywatch incident show {shape['incident']}` shows how it goes")
    return 0


def asking(one: dict[str, Any]) -> str:
    """A repair that waits, in a line."""
    would = "; ".join(one["does"]) or "only wait"
    return f"run {one['run']} of {one['playbook']} on {one['target']} would, at rung {one['rung']}: {would}"
