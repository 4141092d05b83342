"""Where the configuration is looked for. Light, since `proxywatch status` loads it and little else."""

from __future__ import annotations

import sys
from pathlib import Path

FILE_NAME = "proxywatch.yaml"
SHIPPED = (
    Path(sys.prefix) / "share/proxywatch/config",
    Path(__file__).resolve().parent.parent / "config",
)
"""Where the files that come with us lie: as an installation puts them, or in a checkout."""


def candidates() -> tuple[Path, ...]:
    """The places in the order in which they are tried."""
    return (
        Path("config") / FILE_NAME,
        Path("/etc/proxywatch") / FILE_NAME,
        *(directory / FILE_NAME for directory in SHIPPED),
    )


def found_file() -> Path | None:
    """The first of the candidates that exists; None if there is none."""
    return next((candidate for candidate in candidates() if candidate.is_file()), None)
