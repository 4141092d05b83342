"""`proxywatch config check|show|init`: judge the configuration, show what is in force, begin one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from watchdog.cli import text
from watchdog.errors import ConfigError, ControlError
from watchdog.locations import FILE_NAME, SHIPPED


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the three actions."""
    config = commands.add_parser("config", parents=[common], help="judge, show or begin a configuration")
    actions = config.add_subparsers(metavar="ACTION", required=True)
    check = actions.add_parser("check", parents=[common], help="judge the configuration and all that it names")
    check.add_argument("file", nargs="?", metavar="FILE")
    check.set_defaults(do=_check)
    show = actions.add_parser("show", parents=[common], help="what is in force, defaults included, secrets masked")
    show.set_defaults(do=_show)
    init = actions.add_parser("init", parents=[common], help="write a commented starting point")
    init.add_argument("directory", nargs="?", default="config", metavar="DIR")
    init.set_defaults(do=_init)


def _check(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from watchdog.cli.judge import judge

    found = judge(options.file or options.config)
    if options.json:
        text.say_json(asdict(found))
        return 2 if found.problems else 0
    text.say(f"warning: {warning}" for warning in found.warnings)
    if found.problems:
        text.say(found.problems)
    else:
        counts = (
            (found.services, "service"),
            (found.probes, "probe"),
            (found.rules, "rule"),
            (found.playbooks, "playbook"),
            (found.receivers, "receiver"),
        )
        text.say(f"OK: {found.file}: " + ", ".join(text.count(number, noun) for number, noun in counts))
    return 2 if found.problems else 0


def _show(options: argparse.Namespace) -> int:
    import yaml

    from watchdog.cli.effective import effective
    from watchdog.settings import load_config

    loaded = load_config(Path(options.config) if options.config else None)
    shape = effective(loaded.config)
    if options.json:
        text.say_json({"files": [str(file) for file in loaded.files], "config": shape})
    else:
        text.say(f"# {' + '.join(str(file) for file in loaded.files)} + PROXYWATCH_* of the environment")
        text.say(yaml.safe_dump(shape, sort_keys=False, allow_unicode=True, width=100).rstrip())
    return 0


def _init(options: argparse.Namespace) -> int:
    import shutil

    directory = Path(options.directory)
    source = next((place for place in SHIPPED if (place / FILE_NAME).is_file()), None)
    if source is None:
        looked = " and ".join(str(place) for place in SHIPPED)
        raise ConfigError(f"the files that come with proxywatch are not there; looked in {looked}")
    wanted = [(file, directory / file.relative_to(source)) for file in sorted(source.rglob("*.yaml"))]
    taken = [target for _, target in wanted if target.exists()]
    if taken:
        hint = "name another directory, or move it away: nothing is overwritten"
        raise ControlError(f"{taken[0]} exists already", hint=hint)
    try:
        for file, target in wanted:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    except OSError as error:
        raise ControlError(f"{error.filename}: cannot be written: {error.strerror}") from error
    if options.json:
        text.say_json({"written": [str(target) for _, target in wanted]})
    else:
        text.say(f"wrote {text.count(len(wanted), 'file')} into {directory}")
        text.say(f"next: read {directory / FILE_NAME}, then `proxywatch config check {directory / FILE_NAME}`")
    return 0
