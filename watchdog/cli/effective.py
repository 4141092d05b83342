"""The configuration in force as YAML-able data that loads again as the same: durations and sizes in their own form.

Secrets are masked; the path of a secret file is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from watchdog.units import parse_duration, parse_size

MASK = "********"
_SECRET = re.compile(
    r"(^|[_-])(api[_-]?key|key|token|secret|password|passwd|authorization|cookie|credentials?)s?$", re.IGNORECASE
)


def effective(model: BaseModel) -> dict[str, Any]:
    """Every key of the model, defaults included."""
    return {name: _field(name, getattr(model, name), info) for name, info in type(model).model_fields.items()}


def _field(name: str, value: object, info: FieldInfo) -> object:
    validators = {m.func for m in info.metadata if isinstance(m, BeforeValidator)}
    if isinstance(value, float) and parse_duration in validators:
        return f"{value:.12g}s"
    if isinstance(value, int) and parse_size in validators:
        return f"{value}B"
    return _plain(name, value)


def _plain(name: str, value: object) -> object:
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return MASK if value and _SECRET.search(name) else value
        case Path():
            return str(value)
        case BaseModel():
            return effective(value)
        case Mapping():
            return {str(key): _plain(str(key), item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(name, item) for item in value]
        case _ if is_dataclass(value):
            return {field.name: _plain(field.name, getattr(value, field.name)) for field in fields(value)}
        case _:
            return str(value)
