"""`proxywatch rules`: judge rule files, or list the rules in force."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from watchdog.cli import text
from watchdog.cli.control import control_of


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds `rules check` and `rules list`."""
    rules = commands.add_parser("rules", parents=[common], help="judge or list alerting rules")
    actions = rules.add_subparsers(metavar="ACTION", required=True)
    check = actions.add_parser("check", parents=[common], help="judge rule files; needs no daemon")
    check.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: those of the configuration")
    check.set_defaults(do=_check)
    listing = actions.add_parser("list", parents=[common], help="the rules in force and their last errors")
    listing.set_defaults(do=_list)


def _check(options: argparse.Namespace) -> int:
    from watchdog.cli.judge import judge_rules, rule_files

    files = options.files or rule_files(options.config)
    problems, count = judge_rules(files)
    if options.json:
        text.say_json({"files": [str(file) for file in files], "rules": count, "problems": problems})
    else:
        text.say(problems or f"OK: {text.count(count, 'rule')} in {text.count(len(files), 'file')}")
    return 2 if problems else 0


def _list(options: argparse.Namespace) -> int:
    shape = control_of(options).get("/v1/rules")
    if options.json:
        text.say_json(shape)
        return 0
    group = None
    for rule in shape["rules"]:
        if rule["group"] != group:
            group = rule["group"]
            text.say(text.heading(text.shortened(f"{group}  ({rule['file']})", text.width())))
        state = rule["state"] or ("record" if rule["kind"] == "record" else "quiet")
        what = f"cannot be evaluated: {rule['last_error']}" if rule["last_error"] else rule["expr"]
        text.say(text.columns([[f"{state:8}", f"{rule['name']:28}", what]], indent=2))
    return 0
