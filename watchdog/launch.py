"""The command `proxywatch run`: judges environment and files, makes sure to be the only one, runs the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from watchdog.accepted import last_good
from watchdog.daemon import Daemon, View
from watchdog.environment import check_environment, own_programs_first
from watchdog.errors import ConfigError, EnvironmentUnfit, StoreError
from watchdog.files import Files, read_files
from watchdog.journal import setup_logging

log = logging.getLogger("proxywatch")


@contextlib.contextmanager
def _only_one(run_dir: Path) -> Iterator[None]:
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "proxywatch.lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise EnvironmentUnfit(
                f"another proxywatch (pid {pid}) runs with {run_dir}",
                hint="stop it, or give this one a run_dir of its own",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def run(config: Path | None, *, view: View | None = None, with_services: bool = False) -> int:
    """0 after a stop in good order, 1 after a bug of ours, 2 if it could not begin."""
    own_programs_first()
    try:
        check_environment()
        files = _files(config)
        setup_logging(files.loaded.config.log.level, files.loaded.config.log.format)
        if files.refused:
            log.critical(
                "the configuration is refused, the last good one is in force until it is put right"
                " (`proxywatch config check`, then `proxywatch reload`): %s",
                files.refused,
            )
        with _only_one(files.loaded.config.run_dir):
            return asyncio.run(_main(files, view, with_services))
    except (ConfigError, EnvironmentUnfit, StoreError) as error:
        print(f"proxywatch: {error}" + (f"; {error.hint}" if error.hint else ""), file=sys.stderr)
        return 2


def _files(config: Path | None) -> Files:
    """What is in place, or the last good one of it. Raises ConfigError."""
    try:
        return read_files(config)
    except ConfigError as error:
        # On a terminal there is somebody to put it right, who must not take what runs for what was written.
        kept = None if sys.stderr.isatty() else last_good(config, error)
        if kept is None:
            raise
        return kept


async def _main(files: Files, view: View | None, with_services: bool) -> int:
    daemon = Daemon(files)
    await daemon.run(with_services=with_services, view=view)
    return 1 if daemon.failed else 0
