"""Programs that a test writes, put in the place of the machine's own."""

from __future__ import annotations

import sys
from pathlib import Path


def program(place: Path, body: str) -> tuple[str, ...]:
    """The argv of a small Python program with this body."""
    place.write_text(body)
    return (sys.executable, str(place))
