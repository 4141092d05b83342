"""`proxywatch doctor`: whether this machine and this installation can do what is asked of them."""

from __future__ import annotations

import argparse
from typing import Any

from watchdog.cli import text


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    doctor = commands.add_parser("doctor", parents=[common], help="whether this machine and installation are fit")
    doctor.set_defaults(do=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from watchdog.cli.examination import examine

    findings = list(examine(options))
    failed = any(one.state == "fail" for one in findings)
    if options.json:
        text.say_json({"fit": not failed, "findings": [asdict(one) for one in findings]})
    else:
        for one in findings:
            text.say(text.columns([[f"{one.state:4}", f"{one.what:14}", one.found]], wrap_last=True))
            if one.advice:
                text.say(text.columns([["    ", " " * 14, f"→ {one.advice}"]], wrap_last=True))
    return 1 if failed else 0
