"""What a unit may be called."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_UNIT = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*\.[a-z]+")


def unit_name(name: str) -> str:
    """The name itself. Raises ValueError for anything but one unit's whole name."""
    if not _UNIT.fullmatch(name):
        raise ValueError(f"expected one unit's whole name such as nginx.service, not {name!r}")
    return name


UnitName = Annotated[str, AfterValidator(unit_name)]
