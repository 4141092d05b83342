"""`proxywatch maintenance add|list|end`: people are at work on targets; nothing acts on them, and nobody is told."""

from __future__ import annotations

import argparse
from typing import Any

from watchdog.cli import text
from watchdog.cli.arguments import duration
from watchdog.cli.control import control_of, part

Shape = dict[str, Any]


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the three actions."""
    noun = commands.add_parser("maintenance", parents=[common], help="leave targets to people for a while")
    actions = noun.add_subparsers(metavar="ACTION", required=True)
    new = actions.add_parser("add", parents=[common], help="from now on, for a time")
    new.add_argument(
        "targets", nargs="+", metavar="TARGET", help="such as service:llm-proxy (with its workers), worker:*"
    )
    new.add_argument("--for", dest="duration", type=duration, required=True, metavar="2h", help="how long")
    new.add_argument("--comment", default="", help="why, for the others")
    new.add_argument("--force", action="store_true", help="also for a service or probe that is not there yet")
    new.set_defaults(do=_add)
    listing = actions.add_parser("list", parents=[common], help="those in force")
    listing.set_defaults(do=_list)
    end = actions.add_parser("end", parents=[common], help="end one now")
    end.add_argument("id", metavar="ID")
    end.set_defaults(do=_end)


def _add(options: argparse.Namespace) -> int:
    body: dict[str, object] = {
        "targets": options.targets,
        "duration": options.duration,
        "comment": options.comment,
        "force": options.force,
    }
    shape = control_of(options).post("/v1/maintenance", body)
    if options.json:
        text.say_json(shape)
        return 0
    targets = ", ".join(shape["targets"])
    said = (
        f"maintenance {shape['id']}: nothing acts on {targets} {_until(shape, shape['now'])}, and nobody is told of it"
    )
    text.say_sentence(said)
    text.say("what is still wrong then is repaired and told afterwards; measuring goes on")
    return 0


def _list(options: argparse.Namespace) -> int:
    shape = control_of(options).get("/v1/maintenance")
    if options.json:
        text.say_json(shape)
    else:
        text.say(lines(shape["maintenance"], shape["now"]) or "nothing is under maintenance")
    return 0


def _end(options: argparse.Namespace) -> int:
    shape = control_of(options).post(f"/v1/maintenance/{part(options.id)}/end")
    if options.json:
        text.say_json(shape)
    else:
        text.say(f"maintenance {options.id} ended; what is wrong is repaired from now on")
    return 0


def lines(windows: list[Shape], now: Shape, indent: int = 0) -> list[str]:
    """Each window in a line."""
    rows = [
        [w["id"], f"ends {text.until(w['until'], now)}", f"{', '.join(w['targets'])}, by {w['by']}{_why(w)}"]
        for w in windows
    ]
    return text.columns(rows, indent, wrap_last=True)


def _until(window: Shape, now: Shape) -> str:
    return f"until {text.clock_time(window['until'])} ({text.until(window['until'], now)})"


def _why(window: Shape) -> str:
    covered = ", ".join(f"#{incident}" for incident in window["covers"])
    why = f": {window['comment']}" if window["comment"] else ""
    return why + (f" (leaves {covered} to people)" if covered else "")
