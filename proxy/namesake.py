"""Refuses an environment in which another distribution has files under our import name, as PyPI's proxy.py does."""

from __future__ import annotations

import importlib.metadata
import sys

DISTRIBUTION, IMPORT_NAME = "proxywatch", "proxy"


def fault() -> str | None:
    """One line for the operator if somebody else owns `proxy` here too; None if it is ours alone."""
    owners = set(importlib.metadata.packages_distributions().get(IMPORT_NAME, [])) - {DISTRIBUTION}
    if not owners:
        return None
    others = ", ".join(sorted(owners))
    return (
        f"{sys.prefix}: the distribution {others} also installs a package named {IMPORT_NAME!r}, and pip mixes the two "
        f"silently; expected an environment of our own: pip uninstall {others}, then reinstall {DISTRIBUTION}"
    )
