"""`proxywatch heartbeat [NAME]`: a job reports that it begins, how it ended, or what it has to say; or the list."""

from __future__ import annotations

import argparse
from typing import Any

from watchdog.cli import text
from watchdog.cli.control import control_of, part
from watchdog.errors import ConfigError

Shape = dict[str, Any]


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    heartbeat = commands.add_parser(
        "heartbeat",
        aliases=["heartbeats"],
        parents=[common],
        help="report that a job ran; without a name: what was reported",
        epilog="In a crontab: `job; proxywatch heartbeat NAME --exit-code $?`",
    )
    heartbeat.add_argument("name", nargs="?", metavar="NAME", help="the name of a probe of the kind heartbeat")
    which = heartbeat.add_mutually_exclusive_group()
    which.add_argument("--start", action="store_true", help="it begins now")
    which.add_argument("--fail", action="store_true", help="it failed")
    which.add_argument("--exit-code", type=int, metavar="N", help="it ended with this status")
    heartbeat.add_argument(
        "--log", default="", metavar="TEXT", help="what it says; alone: only this, not that it ended"
    )
    heartbeat.set_defaults(do=_heartbeat)


def _heartbeat(options: argparse.Namespace) -> int:
    if options.name is None:
        return _list(options)
    ended = options.fail or options.exit_code is not None
    report = "start" if options.start else "log" if options.log and not ended else "end"
    body: dict[str, object] = {"report": report, "log": options.log}
    if ended:
        body["exit_code"] = 1 if options.fail else options.exit_code
    shape = control_of(options).post(f"/v1/heartbeats/{part(options.name)}", body)
    if options.json:
        text.say_json(shape)
        return 0
    said = {"start": "begins", "log": "says something"}.get(report) or _ending(shape)
    text.say(f"{shape['name']} {said}; its next success is due {text.until(shape['due'], shape['now'])}")
    return 0


def _list(options: argparse.Namespace) -> int:
    if options.start or options.fail or options.log or options.exit_code is not None:
        raise ConfigError("which heartbeat? a report needs a name", hint="`proxywatch heartbeat` lists the names")
    shape = control_of(options).get("/v1/heartbeats")
    if options.json:
        text.say_json(shape)
        return 0
    now = shape["now"]
    rows = [[h["name"], _last(h, now), f"due {text.until(h['due'], now)}", h["log"]] for h in shape["heartbeats"]]
    text.say(text.columns(rows) or "no heartbeat is configured")
    return 0


def _last(heartbeat: Shape, now: Shape) -> str:
    if heartbeat["running_since"]:
        return f"running for {text.ago(heartbeat['running_since'], now)}"
    if heartbeat["last_end"] is None:
        return "never reported"
    return f"{_ending(heartbeat)} {text.ago(heartbeat['last_end'], now)} ago"


def _ending(heartbeat: Shape) -> str:
    return "succeeded" if heartbeat["exit_code"] == 0 else f"failed (exit {heartbeat['exit_code']})"
