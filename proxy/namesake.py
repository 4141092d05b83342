"""Refuses an environment in which another distribution has files under our import name, as PyPI's proxy.py does.

Only names and lists of files are read: `importlib.metadata` says the same after a third of a second, which every start
would wait for.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

DISTRIBUTION, IMPORT_NAME = "proxywatch", "proxy"
_LISTS = ("top_level.txt", "RECORD")
"""What a distribution says of its files: the names of its packages, or else each file."""
_LINES = (f"\n{IMPORT_NAME}\n".encode(), f"\n{IMPORT_NAME}/".encode())


def fault(places: Sequence[str] | None = None) -> str | None:
    """One line for the operator if somebody else owns `proxy` here too; None if it is ours alone. `places` are
    directories of installed packages, by default those that Python imports from."""
    owners = {
        known.stem.partition("-")[0]
        for place in (sys.path if places is None else places)
        for known in Path(place or ".").glob("*.*-info")
        if _owns(known)
    }
    owners.discard(DISTRIBUTION)
    if not owners:
        return None
    others = ", ".join(sorted(owners))
    return (
        f"{sys.prefix}: the distribution {others} also installs a package named {IMPORT_NAME!r}, and pip mixes the two "
        f"silently; expected an environment of our own: pip uninstall {others}, then reinstall {DISTRIBUTION}"
    )


def _owns(known: Path) -> bool:
    for name in _LISTS:
        with contextlib.suppress(OSError):
            listed = b"\n" + (known / name).read_bytes().replace(b"\r", b"") + b"\n"
            return any(line in listed for line in _LINES)
    return False
