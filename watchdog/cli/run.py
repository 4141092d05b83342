"""`proxywatch run`: the daemon, with a live view on a terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command."""
    run = commands.add_parser("run", parents=[common], help="watch and heal until SIGTERM or Ctrl-C")
    run.add_argument("--plain", action="store_true", help="log lines instead of the live view")
    run.add_argument("--with-services", action="store_true", help="services of kind `child` end with proxywatch")
    run.set_defaults(do=_run)


def _run(options: argparse.Namespace) -> int:
    from watchdog import launch

    view = None
    if not options.plain and not options.json and sys.stdout.isatty() and sys.stderr.isatty():
        from watchdog.cli.live import live

        view = live
    file = Path(options.config) if options.config else None
    return launch.run(file, view=view, with_services=options.with_services)
