"""Where the configuration and the control socket are, found out without loading the whole configuration.

`proxywatch status` must answer at once, and the full model costs half a second; so only directories are looked up
here. `settings` stays the judge of everything else.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from watchdog.errors import ConfigError
from watchdog.locations import found_file

DEFAULT_RUN_DIR = "var/run/proxywatch"
DEFAULT_STATE_DIR = "var/lib/proxywatch"


def config_file(given: str | None) -> Path | None:
    """The configuration that `run` would read: the one given, else the first that exists; None if there is none."""
    return Path(given) if given is not None else found_file()


def control_socket(config: str | None, socket: str | None) -> Path:
    """Where the daemon listens: `socket` if given, else in the configuration's `run_dir`. Raises ConfigError."""
    if socket is not None:
        return Path(socket)
    return Path(_directory("run_dir", config_file(config), DEFAULT_RUN_DIR)) / "control.sock"


def kill_switch_file(config: str | None) -> Path:
    """The file that stops everything while it exists, in the configuration's `state_dir`. Raises ConfigError."""
    return Path(_directory("state_dir", config_file(config), DEFAULT_STATE_DIR)) / "pause"


def backups_directory(config: str | None) -> Path:
    """Where archives are: `backups.directory`, else below the configuration's `state_dir`, as far as either can be
    read."""
    file = config_file(config)
    if given := os.environ.get("PROXYWATCH_BACKUPS__DIRECTORY"):
        return Path(given)
    try:
        section = _read(file).get("backups") if file is not None else None
        if isinstance(section, dict) and isinstance(section.get("directory"), str):
            return Path(section["directory"])
        state = _directory("state_dir", file, DEFAULT_STATE_DIR)
    except ConfigError:
        state = DEFAULT_STATE_DIR
    return Path(state) / "backups"


def _directory(key: str, file: Path | None, default: str) -> str:
    if from_environment := os.environ.get(f"PROXYWATCH_{key.upper()}"):
        return from_environment
    if file is None:
        return default
    fragments = sorted((file.parent / "conf.d").glob("*.yaml"), reverse=True)
    for candidate in (*fragments, file):
        try:
            value = _read(candidate).get(key)
        except ConfigError as error:
            if not candidate.is_file():
                raise
            # The daemon runs on with its last good configuration, and must be reached now above all.
            print(f"proxywatch: {error}; passed over to reach the daemon", file=sys.stderr)
            continue
        if isinstance(value, str):
            return value
    return default


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        # libyaml's parser, where PyYAML was built with it, takes a tenth of the time.
        data = yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file)) from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        reason = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"not valid YAML: {reason}", file=str(file), line=line) from error
    return data if isinstance(data, dict) else {}
