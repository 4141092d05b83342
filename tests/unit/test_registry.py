"""How a kind is found and configured."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import TypeAdapter, ValidationError

import watchdog.actions
from watchdog.actions import actions
from watchdog.registry import Duration, Registry, Settings, Size


class RoundSettings(Settings):
    kind: Literal["round"]
    radius: Duration = 1.0
    weight: Size = 0


class FlatSettings(Settings):
    kind: Literal["flat"]


class Round:
    """Registered below."""


class Flat:
    """Registered below."""


def shapes() -> Registry[object]:
    registry: Registry[object] = Registry("shape")
    registry.register(RoundSettings)(Round)
    registry.register(FlatSettings)(Flat)
    return registry


def test_a_kind_is_found_by_its_name() -> None:
    """Kinds come sorted with their settings; each gives back the very class that was registered."""
    registry = shapes()
    assert list(registry.kinds.items()) == [("flat", FlatSettings), ("round", RoundSettings)]
    assert registry.implementation("round") is Round
    with pytest.raises(KeyError):
        registry.implementation("square")


def test_a_kind_registered_twice_is_a_bug() -> None:
    """The second registration is refused and the first stays."""
    registry = shapes()
    with pytest.raises(ValueError, match="shape kind 'flat' is registered twice"):
        registry.register(FlatSettings)(Round)
    assert registry.implementation("flat") is Flat


def test_the_union_chooses_by_kind() -> None:
    """The configuration's `kind` chooses the model; units are read; an unknown kind or key is an error."""
    adapter = TypeAdapter(shapes().union())
    found = adapter.validate_python({"kind": "round", "radius": "2m", "weight": "1KiB"})
    assert isinstance(found, RoundSettings)
    assert (found.radius, found.weight) == (120.0, 1024)
    for bad in ({"kind": "square"}, {"radius": "1s"}, {"kind": "flat", "radius": "1s"}, {"kind": "round", "radius": 5}):
        with pytest.raises(ValidationError):
            adapter.validate_python(bad)


def test_one_kind_alone_needs_no_discriminator() -> None:
    """A registry with one kind is that kind's model."""
    registry: Registry[object] = Registry("shape")
    registry.register(FlatSettings)(Flat)
    assert registry.union() is FlatSettings


def test_settings_are_frozen() -> None:
    """What was loaded stays as it was loaded."""
    settings = RoundSettings(kind="round")
    with pytest.raises(ValidationError, match="frozen"):
        settings.radius = 2.0  # type: ignore[misc]


def test_discovery_finds_every_file_and_may_be_repeated() -> None:
    """Every module of the package is imported, once, however often it is asked for."""
    actions.discover(watchdog.actions)
    first = actions.kinds
    actions.discover(watchdog.actions)
    assert actions.kinds == first
    assert {"command", "recycle_worker", "restart_service", "evict_cache", "flush_cache"} <= set(first)
