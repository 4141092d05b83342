"""Where the agent's directories are, read from a configuration without judging it, and although it is broken.

The full model costs half a second, and says nothing at all of a configuration that it refuses; but the daemon that runs
on with its last good one must be reached, and its state found, then above all.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from watchdog.errors import ConfigError

RUN_DIR = "var/run/proxywatch"
STATE_DIR = "var/lib/proxywatch"
_PLAIN = re.compile(r"^(\w+):[ \t]+(['\"]?)([^\s'\"#,\[\]{}&*!|>%@`][^'\"#\n]*?)\2[ \t]*(?:#.*)?$", re.MULTILINE)
"""A key at the margin and its value on the same line: what is still to be read of a file that is no YAML."""


def directory(key: str, file: Path | None, default: str) -> str:
    """What `PROXYWATCH_KEY`, the fragments and the configuration say of a directory, in this order. A file that is
    broken is said on standard error and read as far as it goes. ConfigError for one that is not there."""
    if from_environment := os.environ.get(f"PROXYWATCH_{key.upper()}"):
        return from_environment
    if file is None:
        return default
    fragments = sorted((file.parent / "conf.d").glob("*.yaml"), reverse=True)
    for candidate in (*fragments, file):
        try:
            value = contents(candidate).get(key)
        except ConfigError as error:
            if not candidate.is_file():
                raise
            print(f"proxywatch: {error}; passed over, read as far as it goes", file=sys.stderr)
            value = _legible(candidate).get(key)
        if isinstance(value, str):
            return value
    return default


def contents(file: Path) -> dict[str, Any]:
    """One file as it stands, judged by nobody. Raises ConfigError."""
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


def _legible(file: Path) -> dict[str, str]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {found[1]: found[3] for found in _PLAIN.finditer(text)}
