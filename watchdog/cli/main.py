"""`proxywatch`: the parser, the dispatch and the edge at which errors become one line and an exit code.

Exit codes: 0 done, 1 the operation failed, 2 wrong usage or configuration; `check` and `probe run` use Nagios' own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from watchdog.cli import (
    alerts,
    backup,
    check,
    config,
    decide,
    doctor,
    explain,
    heartbeat,
    history,
    incident,
    install,
    maintenance,
    memory,
    pause,
    playbook,
    probe,
    query,
    rules,
    run,
    silence,
    status,
    tell,
)
from watchdog.cli.control import RefusedRequest
from watchdog.cli.text import say, say_json
from watchdog.errors import ConfigError, EnvironmentUnfit, ProxywatchError
from watchdog.release import __version__

NOUNS = (
    *(run, status, check, probe, rules, alerts, incident, history, explain),
    *(playbook, decide, silence, maintenance, heartbeat, query, memory, backup, pause, config, doctor, install, tell),
)
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    options = parser().parse_args(argv, argparse.Namespace(config=None, socket=None, json=False))
    try:
        code: int = options.do(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read us has had enough; the interpreter must not complain about it again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except ProxywatchError as error:
        complain(error)
        return exit_code(error)
    return code


def complain(error: ProxywatchError) -> None:
    """`proxywatch: what; where; what to do` on standard error."""
    print(f"proxywatch: {error}" + (f"; {error.hint}" if error.hint else ""), file=sys.stderr)


def exit_code(error: ProxywatchError) -> int:
    """2 for what the caller or the operator wrote, 1 for what went wrong."""
    wrong = isinstance(error, ConfigError | EnvironmentUnfit) or (isinstance(error, RefusedRequest) and error.malformed)
    return 2 if wrong else 1


def parser() -> argparse.ArgumentParser:
    """The whole command line. The global options are taken before the command and after it."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("options of every command")
    group.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="the configuration to use")
    group.add_argument("--socket", metavar="PATH", default=argparse.SUPPRESS, help="the daemon's control socket")
    group.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    top = argparse.ArgumentParser(
        prog="proxywatch",
        description="Keeps services on this host healthy: probes, notices, repairs, verifies, and tells why.",
        parents=[common],
    )
    top.add_argument("--version", action="version", version=f"proxywatch {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for noun in NOUNS:
        noun.add(commands, common)
    version = commands.add_parser("version", parents=[common], help="which version this is")
    version.set_defaults(do=_version)
    return top


def _version(options: argparse.Namespace) -> int:
    python = sys.version.split()[0]
    if options.json:
        say_json({"version": __version__, "python": python})
    else:
        say(f"proxywatch {__version__} (Python {python})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
