"""`proxywatch alerts`: what fires, and what may soon."""

from __future__ import annotations

import argparse
from typing import Any

from watchdog.cli import text
from watchdog.cli.control import control_of


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    alerts = commands.add_parser("alerts", parents=[common], help="alerts that fire or are pending")
    alerts.set_defaults(do=_alerts)


def _alerts(options: argparse.Namespace) -> int:
    shape = control_of(options).get("/v1/alerts")
    if options.json:
        text.say_json(shape)
    elif not shape["alerts"]:
        text.say("no alert fires")
    else:
        text.say(text.columns(row(alert, shape["now"]) for alert in shape["alerts"]))
    return 0


def row(alert: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One alert in a line."""
    since = text.ago(alert["fired_at"] or alert["active_at"], now)
    incident = f"#{alert['incident']}" if alert["incident"] else ""
    what = alert["summary"] or alert["name"]
    state = "" if alert["state"] == "firing" else alert["state"]
    return [alert["severity"], alert["name"], alert["target"], since, state, incident, what]
