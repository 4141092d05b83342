"""`proxywatch tell`: tells people something without the daemon, for when the daemon itself has failed."""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watchdog.cli import text
from watchdog.errors import ActionError, ConfigError

if TYPE_CHECKING:
    from watchdog.core.model import TimelineEntry
    from watchdog.core.routing import Notice
    from watchdog.notifiers.direct import Told
    from watchdog.notifiers.routes_file import RoutesConfig

_LOOK_SECONDS = 10.0
_JOURNAL_LINES = "30"
_PROPERTIES = ("Result", "ActiveState", "SubState", "ExecMainStatus", "NRestarts", "InvocationID")


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    tell = commands.add_parser(
        "tell",
        parents=[common],
        help="tell people at once, by the routes file alone; systemd calls it when proxywatch itself has failed",
        epilog="`proxywatch tell this is only a test` shows whether the routes reach you.",
    )
    tell.add_argument("words", nargs="*", metavar="TEXT")
    tell.add_argument("--unit", metavar="UNIT", help="tell that this unit has failed, with its last words")
    tell.add_argument("--severity", default="critical", metavar="LEVEL", help="what routes match on (critical)")
    tell.set_defaults(do=_tell)


def _tell(options: argparse.Namespace) -> int:
    said = " ".join(options.words)
    if not said and options.unit is None:
        raise ConfigError("tell what? a text or --unit is needed")
    import asyncio

    return asyncio.run(_tell_all(options, said))


async def _tell_all(options: argparse.Namespace, said: str) -> int:
    from watchdog.clock import SystemClock
    from watchdog.notifiers import NotifierContext
    from watchdog.notifiers.direct import tell
    from watchdog.notifiers.sender import build_notifiers
    from watchdog.system.http import HttpClient

    clock = SystemClock()
    notice = await _notice(options.unit, said, options.severity, clock.now())
    summary = notice.annotation["summary"]
    # Before anything else can fail: under systemd this line stands in the journal whatever becomes of the rest.
    print(summary, file=sys.stderr if options.json else sys.stdout, flush=True)
    routes, host = _routes(options.config)
    http = HttpClient()
    try:
        notifiers = build_notifiers(routes, NotifierContext(clock, http, host or socket.gethostname()))
        told = await tell(routes, notifiers, notice, clock.now())
    finally:
        await http.close()
    return _report(options, summary, told, routes)


def _report(options: argparse.Namespace, summary: str, told: tuple[Told, ...], routes: RoutesConfig) -> int:
    reached = any(not one.error for one in told)
    if options.json:
        text.say_json({"summary": summary, "told": [{"address": one.address, "error": one.error} for one in told]})
    for one in told:
        print(f"{one.address}: {one.error or 'told'}", file=sys.stderr)
    if not told:
        print(f"proxywatch: nobody was told: {routes.file} names no integration for this", file=sys.stderr)
    return 0 if reached else 1


def _routes(config: str | None) -> tuple[RoutesConfig, str]:
    """The routes, and the host's name for people. A configuration that is broken may be why this is called: then the
    routes file beside it is taken. ConfigError if there is none that can be read."""
    from watchdog.notifiers.routes_file import load_routes
    from watchdog.settings import Config, default_file, load_config

    file = Path(config) if config else default_file()
    try:
        loaded = load_config(file)
        (path,) = loaded.paths([loaded.config.routes], "routes")
        host = loaded.config.host
    except ConfigError as error:
        print(f"proxywatch: {error}; taking the routes beside it", file=sys.stderr)
        path, host = file.with_name(Config.model_fields["routes"].default), ""
    return load_routes(path), host


async def _notice(unit: str | None, said: str, severity: str, now: float) -> Notice:
    from watchdog.core.model import labels_of
    from watchdog.core.routing import Notice, NoticeKind

    facts, story = await _look(unit, now) if unit else ({}, ())
    summary = said or f"{unit} has failed for good: {_ending(facts)}"
    labels = {"severity": severity, "alertname": "UnitFailed" if unit else "Told", "unit": unit or ""}
    return Notice(
        incident_id=0,
        kind=NoticeKind.ESCALATED,
        key=f"tell:{unit or 'text'}:{facts.get('InvocationID') or f'{now:.0f}'}",
        labels=labels_of(labels, target=f"unit:{unit}" if unit else ""),
        annotations=labels_of(summary=summary, description=_description(unit)),
        started_at=now,
        story=story,
        reason=f"systemd does not start {unit} again by itself." if unit else "",
        advice=_advice(unit) if unit else (),
    )


def _ending(facts: dict[str, str]) -> str:
    told = [facts.get("Result") or "the reason is not known"]
    if (status := facts.get("ExecMainStatus", "0")) != "0":
        told.append(f"exit status {status}")
    if (restarts := facts.get("NRestarts", "0")) != "0":
        told.append(f"after {restarts} restarts")
    return ", ".join(told)


def _description(unit: str | None) -> str:
    if unit is None:
        return ""
    return f"{unit} is down until somebody starts it. What it watches or serves is without it meanwhile."


def _advice(unit: str) -> tuple[str, ...]:
    return (
        f"systemctl status {unit}",
        f"journalctl --boot --unit {unit} --lines 100",
        f"systemctl reset-failed {unit}; systemctl start {unit}   # once the cause is put right",
    )


async def _look(unit: str, now: float) -> tuple[dict[str, str], tuple[TimelineEntry, ...]]:
    """What systemd says of it, and its last lines in the journal; what cannot be had is said instead."""
    import asyncio

    from watchdog.core.model import TimelineEntry
    from watchdog.system.command import run_command

    async def ask(*argv: str) -> str:
        try:
            return (await run_command(argv, timeout=_LOOK_SECONDS)).output
        except ActionError as error:
            return str(error)

    shown, lines = await asyncio.gather(
        ask("systemctl", "show", unit, f"--property={','.join(_PROPERTIES)}"),
        ask("journalctl", "--quiet", "--boot", "--output=short-iso", f"--lines={_JOURNAL_LINES}", f"--unit={unit}"),
    )
    facts = dict(line.partition("=")[::2] for line in shown.splitlines() if "=" in line)
    evidence = (("what systemd says of it", shown), ("its last lines in the journal", lines))
    return facts, tuple(TimelineEntry(now, "evidence", title, {"text": told}) for title, told in evidence if told)
