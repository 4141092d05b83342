"""Whose code a file is, by its path alone: the standard library's, an installed package's, or the service's own."""

from __future__ import annotations

import re
from collections.abc import Sequence

STANDARD_LIBRARY = "standard library"
OWN = "own code"
UNKNOWN = "unknown"

_INSTALLED = re.compile(r"/(?:site|dist)-packages/([^/]+)")
_STANDARD = re.compile(r"/lib(?:64)?/python3(?:\.\d+)?t?/")


def package_of(file: str) -> str:
    """`aiohttp` for a file of an installed package, else one of the constants."""
    if installed := _INSTALLED.search(file):
        return installed[1].removesuffix(".py")
    if file.startswith("<frozen ") or _STANDARD.search(file):
        return STANDARD_LIBRARY
    return UNKNOWN if file.startswith("<") or not file else OWN


def nearest_own(traceback: Sequence[tuple[str, int]]) -> tuple[str, int] | None:
    """The frame of the service's own code that is nearest to the allocation (which comes first); None without one."""
    return next(((file, line) for file, line in traceback if package_of(file) == OWN), None)
