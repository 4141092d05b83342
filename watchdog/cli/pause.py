"""`proxywatch pause`, `resume` and `reload`: what a person tells the daemon."""

from __future__ import annotations

import argparse
from typing import Any

from watchdog.cli import text
from watchdog.cli.control import control_of
from watchdog.units import parse_duration


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the three commands."""
    pause = commands.add_parser("pause", parents=[common], help="act on nothing; go on measuring and telling")
    pause.add_argument("reason", nargs="*", metavar="REASON")
    pause.add_argument("--for", dest="duration", type=_duration, metavar="1h", help="end by itself after this time")
    pause.set_defaults(do=_pause)
    resume = commands.add_parser("resume", parents=[common], help="end every pause")
    resume.set_defaults(do=_resume)
    reload = commands.add_parser("reload", parents=[common], help="read the configuration again")
    reload.set_defaults(do=_reload)


def _duration(value: str) -> float:
    try:
        seconds = parse_duration(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if seconds <= 0:
        raise argparse.ArgumentTypeError("expected more than 0s")
    return seconds


def _pause(options: argparse.Namespace) -> int:
    body: dict[str, object] = {"reason": " ".join(options.reason)}
    if options.duration is not None:
        body["duration"] = options.duration
    shape = control_of(options).post("/v1/pause", body)
    if options.json:
        text.say_json(shape)
    else:
        text.say(pause_lines(shape["pauses"], shape["now"]))
        text.say("nothing acts until `proxywatch resume`; measuring and telling go on")
    return 0


def _resume(options: argparse.Namespace) -> int:
    shape = control_of(options).post("/v1/resume")
    if options.json:
        text.say_json(shape)
    else:
        text.say(f"{text.count(shape['ended'], 'pause')} ended" if shape["ended"] else "nothing was paused")
    return 0


def _reload(options: argparse.Namespace) -> int:
    shape = control_of(options).post("/v1/reload")
    if options.json:
        text.say_json(shape)
    else:
        text.say(f"reloaded: {shape['done']}")
    return 0


def pause_lines(pauses: list[dict[str, Any]], now: dict[str, Any]) -> list[str]:
    """Each pause in a line."""
    return [
        f"paused by {p['by']} {text.ago(p['since'], now)} ago: {p['reason']}"
        + (f" (ends {text.until(p['until'], now)})" if p["until"] else "")
        for p in pauses
    ]
