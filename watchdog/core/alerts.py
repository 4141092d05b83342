"""How the alerts of one rule change from one evaluation to the next: pending, firing, resolved, as in Prometheus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from watchdog.core.model import Alert, AlertChange, AlertEvent, AlertState, Labels, fingerprint

Holding = tuple[Labels, Labels, float]
"""(labels, annotations, value) of one element for which the rule's expression holds."""


def advance(
    rule_name: str,
    for_seconds: float,
    keep_firing_for_seconds: float,
    active: Mapping[str, Alert],
    vector: Sequence[Holding],
    now: float,
) -> tuple[dict[str, Alert], list[AlertEvent]]:
    """The active alerts after an evaluation at `now` that gave `vector`, and what changed, in order.

    `active` is by fingerprint and holds only pending and firing alerts. An alert fires when its expression has held at
    every evaluation for `for_seconds`; it resolves at the first evaluation at which it does not hold, or, with
    `keep_firing_for_seconds`, when that long has passed since then. A pending one that stops is forgotten.
    """
    after: dict[str, Alert] = {}
    events: list[AlertEvent] = []
    for holding in vector:
        key = fingerprint(holding[0])
        alert, change = _holds(active.get(key), rule_name, for_seconds, holding, now)
        after[key] = alert
        if change is not None:
            events.append(AlertEvent(change, alert, now))
    for key, known in active.items():
        if key in after:
            continue
        alert, change = _fails(known, keep_firing_for_seconds, now)
        if change is None:
            after[key] = alert
        else:
            events.append(AlertEvent(change, alert, now))
    return after, events


def deadline(alert: Alert, for_seconds: float, keep_firing_for_seconds: float) -> float | None:
    """When an evaluation would change `alert` if nothing else does: the end of `for` or of `keep_firing_for`."""
    if alert.state is AlertState.PENDING:
        return alert.active_at + for_seconds
    if alert.false_since is not None:
        return alert.false_since + keep_firing_for_seconds
    return None


def _holds(
    known: Alert | None, rule_name: str, for_seconds: float, holding: Holding, now: float
) -> tuple[Alert, AlertChange | None]:
    labels, annotations, value = holding
    if known is None:
        alert = Alert(rule_name, labels, annotations, AlertState.PENDING, value, now, last_true_at=now)
    else:
        # Not `replace`, which takes ten times as long: this runs for every alert at every evaluation.
        alert = Alert(known.rule, known.labels, annotations, known.state, value, known.active_at, known.fired_at, now)
    if alert.state is AlertState.PENDING and now >= alert.active_at + for_seconds:
        return replace(alert, state=AlertState.FIRING, fired_at=now), AlertChange.FIRING
    return alert, AlertChange.PENDING if known is None else None


def _fails(known: Alert, keep_firing_for_seconds: float, now: float) -> tuple[Alert, AlertChange | None]:
    """The alert as it goes on firing (no change), or as it ends."""
    if known.state is AlertState.PENDING:
        return known, AlertChange.FORGOTTEN
    since = now if known.false_since is None else known.false_since
    if now < since + keep_firing_for_seconds:
        return replace(known, false_since=since), None
    return replace(known, state=AlertState.RESOLVED, resolved_at=now), AlertChange.RESOLVED
