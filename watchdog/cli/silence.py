"""`proxywatch silence add|list|expire`: of what nobody is to be told for a while. Repairs go on."""

from __future__ import annotations

import argparse
from typing import Any

from watchdog.cli import text
from watchdog.cli.arguments import duration
from watchdog.cli.control import control_of, part

Shape = dict[str, Any]


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the three actions."""
    silence = commands.add_parser("silence", aliases=["silences"], parents=[common], help="tell nobody of some alerts")
    actions = silence.add_subparsers(metavar="ACTION", required=True)
    new = actions.add_parser("add", parents=[common], help="from now on, for a time; repairs go on")
    new.add_argument(
        "matchers", nargs="+", metavar="MATCHER", help="such as alertname=WorkerHung severity=~'info|warning'"
    )
    new.add_argument("--for", dest="duration", type=duration, required=True, metavar="2h", help="how long")
    new.add_argument("--comment", default="", help="why, for the others")
    new.add_argument("--force", action="store_true", help="also for a service or probe that is not there yet")
    new.set_defaults(do=_add)
    listing = actions.add_parser("list", parents=[common], help="those in force")
    listing.set_defaults(do=_list)
    expire = actions.add_parser("expire", parents=[common], help="end one now")
    expire.add_argument("id", metavar="ID")
    expire.set_defaults(do=_expire)


def _add(options: argparse.Namespace) -> int:
    body: dict[str, object] = {
        "matchers": ", ".join(options.matchers),
        "duration": options.duration,
        "comment": options.comment,
        "force": options.force,
    }
    shape = control_of(options).post("/v1/silences", body)
    if options.json:
        text.say_json(shape)
        return 0
    said = f"silence {shape['id']}: nobody is told of {shape['matchers']} {_end(shape, shape['now'])}"
    text.say_sentence(said)
    text.say("what is still wrong then is told afterwards; repairs go on")
    return 0


def _list(options: argparse.Namespace) -> int:
    shape = control_of(options).get("/v1/silences")
    if options.json:
        text.say_json(shape)
    else:
        text.say(lines(shape["silences"], shape["now"]) or "nothing is silenced")
    return 0


def _expire(options: argparse.Namespace) -> int:
    shape = control_of(options).post(f"/v1/silences/{part(options.id)}/expire")
    if options.json:
        text.say_json(shape)
    else:
        text.say(f"silence {options.id} ended; what it held back and is still wrong is told within minutes")
    return 0


def lines(silences: list[Shape], now: Shape, indent: int = 0) -> list[str]:
    """Each silence in a line."""
    rows = [
        [s["id"], f"ends {text.until(s['until'], now)}", f"{s['matchers']}, by {s['by']}{_why(s)}"] for s in silences
    ]
    return text.columns(rows, indent, wrap_last=True)


def _end(silence: Shape, now: Shape) -> str:
    return f"until {text.clock_time(silence['until'])} ({text.until(silence['until'], now)})"


def _why(silence: Shape) -> str:
    covered = ", ".join(f"#{incident}" for incident in silence["covers"])
    why = f": {silence['comment']}" if silence["comment"] else ""
    return why + (f" (holds back {covered})" if covered else "")
