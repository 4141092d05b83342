"""What every section of llm-proxy.yaml is made of: the strict base model, durations, and uniqueness."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> float:
    """Seconds from `500ms`, `30s`, `5m`, `1h30m`; a bare number other than 0 is refused, for its unit is unknown."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        return 0.0
    if isinstance(value, str):
        position, seconds = 0, 0.0
        while match := _DURATION.match(value, position):
            seconds += float(match[1]) * _SECONDS[match[2]]
            position = match.end()
        if position and position == len(value):
            return seconds
    raise ValueError(f"expected a duration such as 30s, 5m or 1h30m, not {value!r}")


Duration = Annotated[float, BeforeValidator(parse_duration)]
"""Seconds."""


def expect_once(noun: str, names: Sequence[str]) -> None:
    """ValueError if a name is there twice."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"expected every {noun} once, found {twice[0]!r} twice")


class Section(BaseModel):
    """The base of every section: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")
