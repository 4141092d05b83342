"""Silences and maintenance windows."""

from __future__ import annotations

import pytest

from watchdog.core.routing import parse_matchers
from watchdog.core.silences import Maintenance, Silence, maintaining, silencing
from watchdog.core.targets import parse_target


def window(*targets: str, until: float = 200.0, by: str = "ann") -> Maintenance:
    return Maintenance("m1", targets, 100.0, until, by, "kernel update")


@pytest.mark.parametrize(
    ("pattern", "target", "covered"),
    [
        ("service:a", "service:a", True),
        ("service:a", "worker:a/0", True),
        ("service:a", "cache:a", True),
        ("service:a", "service:ab", False),
        ("worker:a/*", "worker:a/1", True),
        ("worker:a/*", "service:a", False),
        ("*", "provider:openai", True),
        ("host", "host", True),
    ],
)
def test_maintenance_covers_what_its_targets_contain(pattern: str, target: str, covered: bool) -> None:
    """A window over a service covers its workers and cache; patterns match whole names."""
    assert (maintaining([window(pattern)], parse_target(target), 150) is not None) is covered


def test_maintenance_holds_from_its_begin_until_its_end() -> None:
    """It covers nothing before it begins and nothing from its end on."""
    target = parse_target("service:a")
    assert [maintaining([window("service:a")], target, at) is not None for at in (99, 100, 199, 200)] == [
        False,
        True,
        True,
        False,
    ]


def test_of_several_windows_the_longest_counts() -> None:
    """The end that is told is the real one."""
    found = maintaining(
        [window("*", by="ann"), window("service:a", until=300, by="bob")], parse_target("service:a"), 150
    )
    assert found is not None
    assert found.by == "bob"


def silence(text: str) -> Silence:
    return Silence("s1", parse_matchers(text), 100.0, 200.0, "ann", "known")


def test_a_silence_covers_alerts_that_meet_all_its_matchers() -> None:
    """All matchers must match, and only while it lasts."""
    labels = {"alertname": "WorkerDown", "service": "a"}
    wanted = silence('alertname="WorkerDown", service=~"a|b"')
    assert silencing([wanted], labels, 150) is wanted
    assert silencing([wanted], labels, 200) is None
    assert silencing([wanted], {**labels, "service": "c"}, 150) is None


def test_a_silence_without_matchers_covers_nothing() -> None:
    """An empty selector is never «all»."""
    assert silencing([silence("")], {"alertname": "X"}, 150) is None
