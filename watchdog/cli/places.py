"""Where the configuration and the control socket are, found out without loading the whole configuration.

`proxywatch status` must answer at once, and the full model costs half a second; so only directories are looked up.
`settings` stays the judge of everything else.
"""

from __future__ import annotations

import os
from pathlib import Path

from watchdog.directories import RUN_DIR, STATE_DIR, contents, directory
from watchdog.errors import ConfigError
from watchdog.locations import found_file


def config_file(given: str | None) -> Path | None:
    """The configuration that `run` would read: the one given, else the first that exists; None if there is none."""
    return Path(given) if given is not None else found_file()


def control_socket(config: str | None, socket: str | None) -> Path:
    """Where the daemon listens: `socket` if given, else in the configuration's `run_dir`. Raises ConfigError."""
    if socket is not None:
        return Path(socket)
    return Path(directory("run_dir", config_file(config), RUN_DIR)) / "control.sock"


def kill_switch_file(config: str | None) -> Path:
    """The file that stops everything while it exists, in the configuration's `state_dir`. Raises ConfigError."""
    return Path(directory("state_dir", config_file(config), STATE_DIR)) / "pause"


def backups_directory(config: str | None) -> Path:
    """Where archives are: `backups.directory`, else below the configuration's `state_dir`, as far as either can be
    read."""
    file = config_file(config)
    if given := os.environ.get("PROXYWATCH_BACKUPS__DIRECTORY"):
        return Path(given)
    try:
        section = contents(file).get("backups") if file is not None else None
        if isinstance(section, dict) and isinstance(section.get("directory"), str):
            return Path(section["directory"])
        state = directory("state_dir", file, STATE_DIR)
    except ConfigError:
        state = STATE_DIR
    return Path(state) / "backups"
