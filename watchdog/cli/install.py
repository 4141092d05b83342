"""`proxywatch install|upgrade|uninstall`: both programs under systemd, step by step, and each step said."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watchdog.cli import text
from watchdog.errors import InstallationError
from watchdog.installation.layout import HOME

if TYPE_CHECKING:
    from watchdog.installation.executor import Line, Tell
    from watchdog.installation.world import World

    Operation = Callable[[World, Tell], bool]


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the three commands."""
    install = commands.add_parser("install", parents=[common], help="put both programs under systemd, and start them")
    _common_options(install)
    _from_option(install)
    install.add_argument("--venv", metavar="DIR", help="use this virtual environment as it is, and build none")
    install.add_argument("--home", metavar="DIR", default=HOME, help=f"where environments are built; {HOME}")
    install.set_defaults(do=_install)
    upgrade = commands.add_parser(
        "upgrade", parents=[common], help="bring them to another version, and back if it fails"
    )
    _common_options(upgrade)
    _from_option(upgrade)
    upgrade.set_defaults(do=_upgrade)
    uninstall = commands.add_parser("uninstall", parents=[common], help="take both programs off this host")
    _common_options(uninstall)
    uninstall.add_argument("--purge", action="store_true", help="configuration, data, logs and archives too")
    uninstall.set_defaults(do=_uninstall)


def _common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say each step, and do none")
    parser.add_argument("--root", metavar="DIR", default="/", help="the root of an image, which is not started")


def _from_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="source", metavar="PATH", help="a wheel, a source distribution or a checkout; else what runs now"
    )


def _install(options: argparse.Namespace) -> int:
    from watchdog.installation.operations import Wanted, install
    from watchdog.installation.release import release_of

    wanted = Wanted(_path(options.venv), options.home.rstrip("/"), options.dry_run)

    def operation(world: World, tell: Tell) -> bool:
        with release_of(_path(options.source), world.command) as release:
            return install(world, release, wanted, tell)

    return _run(options, operation, _after_install)


def _upgrade(options: argparse.Namespace) -> int:
    from watchdog.installation.operations import upgrade
    from watchdog.installation.release import release_of

    def operation(world: World, tell: Tell) -> bool:
        with release_of(_path(options.source), world.command) as release:
            return upgrade(world, release, tell, rehearsal=options.dry_run)

    return _run(options, operation, lambda _: [])


def _uninstall(options: argparse.Namespace) -> int:
    from watchdog.installation.operations import left, uninstall

    def operation(world: World, tell: Tell) -> bool:
        return uninstall(world, tell, purge=options.purge, rehearsal=options.dry_run)

    return _run(options, operation, left)


def _path(given: str | None) -> Path | None:
    return Path(given) if given else None


def _after_install(world: World) -> list[str]:
    from watchdog.installation.layout import AGENT_FILE, PROXY_FILE, UNITS

    return [
        f"whom to ask: providers and their keys stand in {PROXY_FILE}; as installed it is the bundled demo",
        f"whom to tell: {Path(AGENT_FILE).parent}/routes.yaml; as installed nobody is told but the journal",
        "" if world.live else f"an image: systemd makes users and directories and starts {UNITS[-1]} when it boots",
    ]


def _run(options: argparse.Namespace, operation: Operation, after: Callable[[World], list[str]]) -> int:
    from watchdog.installation.operations import require_rights
    from watchdog.installation.world import open_world

    lines: list[Line] = []

    def tell(line: Line) -> None:
        lines.append(line)
        if not options.json:
            text.say(f"{line.became:6}  {line.says}")
            if line.note:
                text.say(f"        {part}" for part in line.note.splitlines())

    try:
        world = open_world(Path(options.root).resolve())
        require_rights(world, rehearsal=options.dry_run)
        did = operation(world, tell)
    except InstallationError as error:
        if not options.json:
            raise
        _say_json(options, lines, "failed", [], error)
        return 1
    outcome = "nothing to do" if not did else "to do" if options.dry_run else "done"
    notes = [note for note in after(world) if note]
    if options.json:
        _say_json(options, lines, outcome, notes, None)
        return 0
    text.say(outcome)
    text.say(notes if did or not options.dry_run else [])
    return 0


def _say_json(
    options: argparse.Namespace, lines: list[Line], outcome: str, notes: list[str], error: InstallationError | None
) -> None:
    from dataclasses import asdict

    shape = {"outcome": outcome, "dry_run": options.dry_run, "steps": [asdict(line) for line in lines], "notes": notes}
    text.say_json(shape | ({"error": str(error), "hint": error.hint} if error else {}))
