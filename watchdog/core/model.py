"""The nouns that travel between rooms. All frozen; all times are steady epoch seconds from `Clock.now()`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

Labels = tuple[tuple[str, str], ...]
"""Label pairs sorted by name, without `__name__`. Hashable, so that it can key a series."""


def labels_of(mapping: Mapping[str, str] | None = None, /, **pairs: str) -> Labels:
    """Labels from a mapping and keywords; keywords win; empty values are absent, as in Prometheus."""
    merged = {**(mapping or {}), **pairs}
    return tuple(sorted((name, value) for name, value in merged.items() if value))


@lru_cache(maxsize=16_384)
def fingerprint(labels: Labels) -> str:
    """16 hex digits that stay the same for the same labels across restarts and hosts."""
    # 0xfe and 0xff never stand in UTF-8, so no label value can pass for a boundary.
    content = b"\xff".join(b"%b\xfe%b" % (name.encode(), value.encode()) for name, value in labels)
    return hashlib.blake2b(content, digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Sample:
    """One number that a probe read. The metric's name says the unit (`_seconds`, `_bytes`, `_ratio`, `_total`)."""

    name: str
    value: float
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run of a probe returned. `note` is for people: a version, a status line, why something is odd."""

    samples: tuple[Sample, ...]
    note: str = ""


class AlertState(StrEnum):
    """As in Prometheus; an alert that is inactive does not exist."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Alert:
    """One label set for which a rule's expression holds or lately held. `labels` include `alertname`.

    `false_since` is set while `keep_firing_for` keeps an alert firing whose expression holds no more.
    """

    rule: str
    labels: Labels
    annotations: Labels
    state: AlertState
    value: float
    active_at: float
    fired_at: float | None = None
    last_true_at: float | None = None
    resolved_at: float | None = None
    false_since: float | None = None

    @property
    def fingerprint(self) -> str:
        """Identity across evaluations and restarts."""
        return fingerprint(self.labels)

    @property
    def label(self) -> dict[str, str]:
        """The labels as a dict, for matching and templates."""
        return dict(self.labels)

    @property
    def annotation(self) -> dict[str, str]:
        """The annotations as a dict."""
        return dict(self.annotations)


class AlertChange(StrEnum):
    """What an evaluation did to an alert."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"
    FORGOTTEN = "forgotten"
    """A pending alert whose expression stopped holding before `for` had passed."""


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """One change of one alert, in the order in which evaluations made them."""

    change: AlertChange
    alert: Alert
    at: float


class IncidentState(StrEnum):
    """PRODUCT: open, healing, verifying, resolved, escalated, suppressed."""

    OPEN = "open"
    HEALING = "healing"
    VERIFYING = "verifying"
    RESOLVED = "resolved"
    ESCALATED = "escalated"
    SUPPRESSED = "suppressed"


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One line of an incident's story. `kind` is from a small fixed set; `data` is JSON-able evidence."""

    at: float
    kind: str
    text: str
    data: Mapping[str, object] = field(default_factory=dict)


class Outcome(StrEnum):
    """How a step or rung ended."""

    DONE = "done"
    FAILED = "failed"
    NOT_DONE = "not_done"
    UNKNOWN = "unknown"
