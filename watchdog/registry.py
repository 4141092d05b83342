"""How a kind (probe, action, notifier) is found and configured.

A kind is one file: a frozen settings model whose `kind` is a `Literal`, and a class registered with it. `discover`
imports each file of the package once, so nothing else has to name a new kind. The union of the settings models is a
pydantic discriminated union: an unknown kind or key fails when the configuration is loaded, with the allowed names.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import reduce
from operator import or_
from types import ModuleType
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from watchdog.units import parse_duration, parse_size

DurationText = Annotated[
    str, Field(pattern=r"^(\d+(\.\d+)?(ms|s|m|h|d|w))+$", json_schema_extra={"examples": ["30s", "5m", "1h30m"]})
]
Duration = Annotated[float, BeforeValidator(parse_duration, json_schema_input_type=DurationText | Literal[0])]
"""Seconds. Configuration writes `500ms`, `30s`, `5m`, `1h30m`, `2d`."""

SizeText = Annotated[
    str, Field(pattern=r"^\s*\d+(\.\d+)?\s*([KMGT]i?)?B\s*$", json_schema_extra={"examples": ["512KiB", "64MiB"]})
]
Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=SizeText | Literal[0])]
"""Bytes. Configuration writes `512KiB`, `64MiB`, `2GB`."""


class Settings(BaseModel):
    """The base of every settings model: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


T = TypeVar("T")


class Registry(Generic[T]):
    """Kinds of one noun, by name. `T` is the contract that each registered class meets."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._kinds: dict[str, tuple[type[Settings], Callable[..., T]]] = {}

    def register(self, settings: type[Settings]) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorator: `@probes.register(HttpProbeSettings) class HttpProbe`. A kind registered twice is a bug."""
        (kind,) = get_args(settings.model_fields["kind"].annotation)

        def add(implementation: Callable[..., T]) -> Callable[..., T]:
            if kind in self._kinds:
                raise ValueError(f"{self.noun} kind {kind!r} is registered twice")
            self._kinds[kind] = (settings, implementation)
            return implementation

        return add

    def discover(self, package: ModuleType) -> None:
        """Imports every module directly under `package`."""
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)

    @property
    def kinds(self) -> dict[str, type[Settings]]:
        """Settings model by kind, sorted by name."""
        return {kind: self._kinds[kind][0] for kind in sorted(self._kinds)}

    def implementation(self, kind: str) -> Callable[..., T]:
        """The class registered for `kind`; KeyError if there is none."""
        return self._kinds[kind][1]

    def union(self) -> Any:
        """The discriminated union of all settings models, for use as a pydantic annotation."""
        models = tuple(self.kinds.values())
        return models[0] if len(models) == 1 else Annotated[reduce(or_, models), Field(discriminator="kind")]
