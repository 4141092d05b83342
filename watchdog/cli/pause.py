"""`proxywatch pause`, `resume` and `reload`: what a person tells the daemon."""

from __future__ import annotations

import argparse
import getpass
from typing import Any

from watchdog.cli import text
from watchdog.cli.arguments import duration
from watchdog.cli.control import RefusedRequest, Unreachable, control_of
from watchdog.cli.places import kill_switch_file
from watchdog.errors import ControlError

STORE_TROUBLE = 503
PATIENCE_SECONDS = 2.0
"""A daemon that has no time to be asked is stopped by the kill switch instead."""


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the three commands."""
    pause = commands.add_parser("pause", parents=[common], help="act on nothing; go on measuring and telling")
    pause.add_argument("reason", nargs="*", metavar="REASON")
    pause.add_argument("--for", dest="duration", type=duration, metavar="1h", help="end by itself after this time")
    pause.set_defaults(do=_pause)
    resume = commands.add_parser("resume", parents=[common], help="end every pause")
    resume.set_defaults(do=_resume)
    reload = commands.add_parser("reload", parents=[common], help="read the configuration again")
    reload.set_defaults(do=_reload)


def _pause(options: argparse.Namespace) -> int:
    reason = " ".join(options.reason)
    body: dict[str, object] = {"reason": reason}
    if options.duration is not None:
        body["duration"] = options.duration
    try:
        shape = control_of(options).post("/v1/pause", body, timeout=PATIENCE_SECONDS)
    except (Unreachable, RefusedRequest) as error:
        if isinstance(error, RefusedRequest) and error.status != STORE_TROUBLE:
            raise
        return _throw(options, reason, error)
    if options.json:
        text.say_json(shape)
    else:
        text.say(pause_lines(shape["pauses"], shape["now"]))
        text.say("nothing acts until `proxywatch resume`; measuring and telling go on")
    return 0


def _throw(options: argparse.Namespace, reason: str, unreachable: ControlError) -> int:
    """The kill switch: the daemon looks for this file before every act, also when it has no time for us."""
    from watchdog.clock import SystemClock
    from watchdog.core.permission import Pause
    from watchdog.playbooks.surroundings import throw_kill_switch

    now = SystemClock().now()
    file = kill_switch_file(options.config)
    until = None if options.duration is None else now + options.duration
    try:
        throw_kill_switch(file, Pause(reason or "no reason given", getpass.getuser(), now, until))
    except OSError as error:
        hint = f"the daemon could not be told either ({unreachable}); do it as the user that proxywatch runs as"
        raise ControlError(f"{file}: the kill switch cannot be thrown: {error.strerror}", hint=hint) from error
    if options.json:
        text.say_json({"kill_switch": str(file), "unreachable": str(unreachable)})
    else:
        text.say_sentence(str(unreachable))
        text.say_sentence(f"the kill switch is thrown instead: while {file} is there, nothing acts")
    return 0


def _resume(options: argparse.Namespace) -> int:
    try:
        shape = control_of(options).post("/v1/resume", timeout=PATIENCE_SECONDS)
    except Unreachable as error:
        file = kill_switch_file(options.config)
        if not file.exists():
            raise
        try:
            file.unlink(missing_ok=True)
        except OSError as failed:
            raise ControlError(f"{file}: the kill switch cannot be taken back: {failed.strerror}") from failed
        hint = "the kill switch is taken back; a pause that the daemon itself keeps stands until it answers"
        raise ControlError(str(error), hint=hint) from None
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
        f"paused by {p['by']}{_since(p, now)}: {p['reason']}"
        + (f" (ends {text.until(p['until'], now)})" if p["until"] else "")
        for p in pauses
    ]


def _since(pause: dict[str, Any], now: dict[str, Any]) -> str:
    """Empty for a kill switch that somebody made by hand: nobody wrote when."""
    return f" {text.ago(pause['since'], now)} ago" if pause["since"] else ""
