"""What a repair touches, as one string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.core.targets import KINDS, Target, is_stranger, parse_target, target_of

PART = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=8).filter(str.strip)


@st.composite
def targets(draw: st.DrawFn) -> Target:
    kind = draw(st.sampled_from(sorted(KINDS)))
    return Target(kind, tuple(draw(PART) for _ in KINDS[kind]))


@given(targets())
def test_targets_round_trip(target: Target) -> None:
    """Every target is parsed back from its own string, labels included."""
    again = parse_target(str(target))
    assert again == target
    assert list(again.labels) == list(KINDS[target.kind])
    assert tuple(again.labels.values()) == target.parts


@given(st.text(max_size=20))
def test_whatever_is_accepted_is_written_the_same_way(text: str) -> None:
    """A string is either refused or is exactly what its target is written as: no two names for one target."""
    try:
        target = parse_target(text)
    except ValueError:
        return
    assert str(target) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "unknown kind of target ''"),
        ("pod:web", "unknown kind of target 'pod'"),
        ("service", "expected service:SERVICE"),
        ("service:", "expected service:SERVICE"),
        ("service:  ", "expected service:SERVICE"),
        ("worker:web", "expected worker:SERVICE/WORKER"),
        ("worker:/0", "expected worker:SERVICE/WORKER"),
        ("worker:web/", "expected worker:SERVICE/WORKER"),
        ("worker:web/ ", "expected worker:SERVICE/WORKER"),
        ("cache:", "expected cache:SERVICE"),
        ("provider:", "expected provider:PROVIDER"),
        ("alert:", "expected alert:ALERT"),
        ("filesystem:", "expected filesystem:MOUNTPOINT"),
        ("source: ", "expected source:SOURCE"),
        ("caller:web/", "expected caller:SERVICE/KEY"),
        ("host:here", "expected host"),
        ("host:", "expected host"),
        (" service:web", "unknown kind of target ' service'"),
    ],
)
def test_an_incomplete_target_is_refused(text: str, complaint: str) -> None:
    """An empty part is never «all»: the error shows the shape that was expected."""
    with pytest.raises(ValueError, match="target") as caught:
        parse_target(text)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parent", "remote"),
    [
        ("worker:web/0", "service:web", False),
        ("cache:web", "service:web", False),
        ("service:web", None, False),
        ("provider:openai", None, True),
        ("host", None, False),
        ("alert:Odd-0123", None, False),
        ("filesystem:/", None, False),
        ("source:2001:db8::7", None, False),
        ("caller:web/team/a", None, False),
    ],
)
def test_what_contains_what_and_what_is_remote(text: str, parent: str | None, remote: bool) -> None:
    """Workers and caches are parts of their service; only a provider is remote."""
    target = parse_target(text)
    assert (str(target.parent) if target.parent else None) == parent
    assert target.remote is remote


@given(targets())
def test_only_callers_and_addresses_are_strangers(target: Target) -> None:
    """Whatever else can be in trouble is a part of this host or a provider of it."""
    assert is_stranger(str(target)) is (target.kind in {"source", "caller"})


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"alertname": "Down", "target": "service:web"}, "service:web"),
        ({"alertname": "Down", "target": "worker:web/"}, "alert:Down-ff00"),
        ({"alertname": "Down"}, "alert:Down-ff00"),
        ({}, "alert:unnamed-ff00"),
    ],
)
def test_an_alert_without_a_usable_target_stands_for_itself(labels: dict[str, str], expected: str) -> None:
    """A rule that names no target, or half of one, gets a target of its own rather than somebody else's."""
    assert str(target_of(labels, "ff00")) == expected
