"""The environment that we run in: refused where another distribution owns the import names `watchdog` or `proxy`.

PyPI has a `watchdog` (file-system events) and a `proxy.py`; pip lets two distributions write into one folder and says
nothing, after which neither works.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

from watchdog.errors import EnvironmentUnfit

DISTRIBUTION = "proxywatch"
IMPORT_NAMES = ("watchdog", "proxy")


def strangers() -> dict[str, list[str]]:
    """Other distributions that own one of our import names, by name."""
    found: dict[str, set[str]] = {}
    for distribution in metadata.distributions():
        for name in _owned(distribution):
            if (owner := distribution.metadata["Name"]).lower() != DISTRIBUTION:
                found.setdefault(name, set()).add(owner)
    return {name: sorted(others) for name, others in found.items()}


def _owned(distribution: metadata.Distribution) -> set[str]:
    """Which of our import names it brings: by what it declares, else by what it installed.

    The same as `metadata.packages_distributions`, which makes an object of every file of every distribution and so
    takes a fifth of a whole start.
    """
    if declared := distribution.read_text("top_level.txt"):
        return set(declared.split()).intersection(IMPORT_NAMES)
    record = "\n" + (distribution.read_text("RECORD") or "")
    return {name for name in IMPORT_NAMES if f"\n{name}/" in record or f"\n{name}.py," in record}


def check_environment() -> None:
    """Raises EnvironmentUnfit naming the distribution to remove."""
    for name, others in strangers().items():
        listed = ", ".join(others)
        raise EnvironmentUnfit(
            f"the distribution {listed} owns the import name {name!r}, which is also ours",
            hint="install proxywatch into a virtual environment of its own, without " + listed,
        )


def own_programs_first() -> None:
    """Commands of this environment are found by name, although its bin directory may not be on the caller's PATH."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
