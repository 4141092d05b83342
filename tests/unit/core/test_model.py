"""The nouns: labels, fingerprints, alerts."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdog.core.model import Alert, AlertState, Labels, Sample, TimelineEntry, fingerprint, labels_of

NAMES = st.text("abcxyz_", min_size=1, max_size=4)
VALUES = st.text(max_size=5)


def alert(labels: Labels, annotations: Labels = ()) -> Alert:
    return Alert("rule", labels, annotations, AlertState.FIRING, 1.0, active_at=5.0)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_labels_are_sorted_and_without_empty_values(mapping: dict[str, str]) -> None:
    """Labels come sorted by name and hold exactly the pairs whose value is not empty."""
    labels = labels_of(mapping)
    assert list(labels) == sorted(labels)
    assert dict(labels) == {name: value for name, value in mapping.items() if value}


def test_keywords_win_over_the_mapping() -> None:
    """A keyword replaces the mapping's pair, and an empty keyword takes it away."""
    assert labels_of({"a": "1", "b": "2"}, a="3", b="") == (("a", "3"),)
    assert labels_of() == ()


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.dictionaries(NAMES, VALUES, max_size=4))
def test_fingerprints_are_equal_exactly_for_equal_labels(one: dict[str, str], other: dict[str, str]) -> None:
    """Two label sets have the same fingerprint if and only if they are the same, in whatever order they were given."""
    reversed_one = dict(reversed(list(one.items())))
    assert fingerprint(labels_of(one)) == fingerprint(labels_of(reversed_one))
    same = labels_of(one) == labels_of(other)
    assert (fingerprint(labels_of(one)) == fingerprint(labels_of(other))) is same


def test_fingerprint_survives_versions() -> None:
    """The fingerprint of known labels is this one for ever, because databases hold it."""
    assert fingerprint(labels_of(alertname="Down", target="service:web")) == "01d39c31cb7db1d0"


def test_pair_boundaries_belong_to_the_fingerprint() -> None:
    """Moving a letter from a name to its value gives another fingerprint."""
    assert fingerprint((("ab", "c"),)) != fingerprint((("a", "bc"),))


def test_an_alert_is_identified_by_its_labels_alone() -> None:
    """State, value and annotations do not change an alert's fingerprint; its labels and annotations read as dicts."""
    labels = labels_of(alertname="Down", severity="critical")
    one = alert(labels, labels_of(summary="gone"))
    other = dataclasses.replace(one, state=AlertState.PENDING, value=9.0, annotations=())
    assert one.fingerprint == other.fingerprint == fingerprint(labels)
    assert one.label == {"alertname": "Down", "severity": "critical"}
    assert one.annotation == {"summary": "gone"}


@pytest.mark.parametrize(
    ("noun", "name"),
    [(Sample("up", 1.0), "value"), (alert(()), "state"), (TimelineEntry(0.0, "note", "text"), "text")],
)
def test_nouns_are_frozen(noun: object, name: str) -> None:
    """What travels between rooms cannot be changed on the way."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(noun, name, None)
