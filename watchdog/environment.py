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
    owners = metadata.packages_distributions()
    found = {name: sorted({o for o in owners.get(name, ()) if o.lower() != DISTRIBUTION}) for name in IMPORT_NAMES}
    return {name: others for name, others in found.items() if others}


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
