"""`proxywatch check`: the verdict of the running daemon as a Nagios plugin gives it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from watchdog.cli import nagios, text
from watchdog.cli.control import RefusedRequest, Unreachable, control_of
from watchdog.cli.nagios import Verdict
from watchdog.errors import ConfigError

_VERDICTS = {"ok": Verdict.OK, "warning": Verdict.WARNING, "critical": Verdict.CRITICAL}


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    check = commands.add_parser("check", parents=[common], help="one line and exit 0/1/2/3, for Nagios and scripts")
    check.set_defaults(do=_check)


def _check(options: argparse.Namespace) -> int:
    """UNKNOWN when the daemon does not answer: then nothing is known, and nothing is being healed either."""
    try:
        shape = control_of(options).get("/v1/status")
    except (Unreachable, RefusedRequest, ConfigError) as error:
        verdict, words, figures = Verdict.UNKNOWN, str(error), []
    else:
        verdict, words = _VERDICTS[shape["verdict"]["state"]], shape["verdict"]["text"]
        figures = list(_figures(shape))
    if options.json:
        text.say_json({"verdict": verdict.name, "exit": int(verdict), "text": words, "perfdata": figures})
    else:
        text.say(nagios.line("PROXYWATCH", verdict, words, figures))
    return int(verdict)


def _figures(shape: dict[str, Any]) -> Iterator[str]:
    severities = [alert["severity"] for alert in shape["alerts"]]
    yield nagios.figure("alerts_critical", severities.count("critical"), crit="0")
    yield nagios.figure("alerts_warning", severities.count("warning"), warn="0")
    yield nagios.figure("incidents", len(shape["incidents"]))
    yield nagios.figure("probes_failing", len(shape["probes"]["failing"]))
    yield nagios.figure("outbox_pending", shape["outbox"]["pending"])
    for service in shape["services"]:
        if service["workers_expected"] is not None:
            # A range that ends at infinity: fewer than expected is what warns.
            wanted = f"{service['workers_expected']}:"
            yield nagios.figure(f"{service['name']}_workers", service["workers_serving"], warn=wanted)
