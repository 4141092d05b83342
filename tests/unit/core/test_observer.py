"""When everything seems ill at once."""

from __future__ import annotations

import pytest

from watchdog.core.observer import SelfCheck, StormLimits, storm
from watchdog.core.targets import parse_target

LIMITS = StormLimits(least_targets=3, share=0.5, within=10, cooldown=30)
KNOWN = [parse_target(text) for text in ("service:a", "service:b", "service:c", "worker:a/0", "worker:a/1", "host")]


def ill(**since: float) -> dict:
    names = {"a": "service:a", "b": "service:b", "c": "service:c", "w": "worker:a/0", "v": "worker:a/1"}
    return {parse_target(names[name]): at for name, at in since.items()}


@pytest.mark.parametrize(
    ("opened", "rages"),
    [
        (ill(a=100, b=101, c=102), True),
        (ill(a=100, b=101), False),
        (ill(a=100, b=101, c=140), False),
        (ill(a=100, w=101, v=102), False),
        (ill(a=100, w=101, b=102), True),
        ({}, False),
    ],
    ids=["three-services", "too-few", "one-fell-ill-later", "one-service-with-its-workers", "two-roots", "nothing"],
)
def test_what_is_a_storm(opened: dict, rages: bool) -> None:
    """A storm takes enough targets under different roots that fell ill together."""
    assert (storm(opened, KNOWN, LIMITS, 110) is not None) is rages


def test_many_healthy_targets_are_no_storm() -> None:
    """Three of eight in trouble are trouble of those three."""
    known = [*KNOWN, parse_target("service:d"), parse_target("service:e")]
    assert storm(ill(a=100, b=101, c=102), known, LIMITS, 110) is None


def test_a_storm_ends_after_its_cooldown() -> None:
    """It blocks until nothing was added for the cooldown, and says how many of how many are ill."""
    raging = storm(ill(a=100, b=101, c=102), KNOWN, LIMITS, 110)
    assert raging is not None
    assert (raging.ill, raging.known, raging.until) == (3, 6, 142)
    assert raging.text == "3 of 6 targets (50 %) fell ill together: service:a, service:b, service:c"
    assert storm(ill(a=100, b=101, c=102), KNOWN, LIMITS, 142) is None


def test_an_agent_with_a_fault_is_not_trusted() -> None:
    """One fault of its own is enough to doubt what it measures."""
    assert SelfCheck(1.0).trusted
    assert not SelfCheck(1.0, ("the event loop is late",)).trusted
