"""An incident's life: one (state, event) table, and the pure steps that alerts and runs take through it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from watchdog.core.model import Alert, IncidentState, Labels
from watchdog.errors import TransitionError

SEVERITIES = ("info", "warning", "critical")


class IncidentEvent(StrEnum):
    """What can happen to an incident."""

    ALERT_FIRED = "alert_fired"
    RUN_STARTED = "run_started"
    ACTED = "acted"
    """A rung's steps are done; from now on the world is watched."""
    RUNG_FAILED = "rung_failed"
    MITIGATED = "mitigated"
    """The run's own goal holds although alerts still fire: traffic is served, the remote fault is not ours to end."""
    RUN_ENDED = "run_ended"
    """The run stopped without success or failure: cancelled, or only observing."""
    ESCALATED = "escalated"
    RECOVERED = "recovered"
    """No alert fires and no run is under way."""
    SUPPRESSED = "suppressed"
    RELEASED = "released"


_S, _E = IncidentState, IncidentEvent

TRANSITIONS: dict[tuple[IncidentState, IncidentEvent], IncidentState] = {
    (_S.OPEN, _E.ALERT_FIRED): _S.OPEN,
    (_S.OPEN, _E.RUN_STARTED): _S.HEALING,
    (_S.OPEN, _E.ESCALATED): _S.ESCALATED,
    (_S.OPEN, _E.RECOVERED): _S.RESOLVED,
    (_S.OPEN, _E.SUPPRESSED): _S.SUPPRESSED,
    (_S.HEALING, _E.ALERT_FIRED): _S.HEALING,
    (_S.HEALING, _E.RUN_STARTED): _S.HEALING,
    (_S.HEALING, _E.ACTED): _S.VERIFYING,
    (_S.HEALING, _E.RUNG_FAILED): _S.HEALING,
    (_S.HEALING, _E.RUN_ENDED): _S.OPEN,
    (_S.HEALING, _E.ESCALATED): _S.ESCALATED,
    (_S.HEALING, _E.RECOVERED): _S.RESOLVED,
    (_S.VERIFYING, _E.ALERT_FIRED): _S.VERIFYING,
    (_S.VERIFYING, _E.RUN_STARTED): _S.HEALING,
    (_S.VERIFYING, _E.ACTED): _S.VERIFYING,
    (_S.VERIFYING, _E.RUNG_FAILED): _S.HEALING,
    (_S.VERIFYING, _E.MITIGATED): _S.VERIFYING,
    (_S.VERIFYING, _E.RUN_ENDED): _S.OPEN,
    (_S.VERIFYING, _E.ESCALATED): _S.ESCALATED,
    (_S.VERIFYING, _E.RECOVERED): _S.RESOLVED,
    (_S.ESCALATED, _E.ALERT_FIRED): _S.ESCALATED,
    (_S.ESCALATED, _E.RUN_STARTED): _S.HEALING,
    (_S.ESCALATED, _E.ESCALATED): _S.ESCALATED,
    (_S.ESCALATED, _E.RECOVERED): _S.RESOLVED,
    (_S.SUPPRESSED, _E.ALERT_FIRED): _S.SUPPRESSED,
    (_S.SUPPRESSED, _E.RELEASED): _S.OPEN,
    (_S.SUPPRESSED, _E.ESCALATED): _S.ESCALATED,
    (_S.SUPPRESSED, _E.RECOVERED): _S.RESOLVED,
}
"""Everything not listed is impossible and raises TransitionError. `resolved` is final: a new alert opens anew."""


@dataclass(frozen=True, slots=True)
class Incident:
    """What is wrong with one target, from the first alert to the last. Times are steady epoch seconds."""

    id: int
    key: str
    state: IncidentState
    title: str
    severity: str
    labels: Labels
    annotations: Labels
    firing: tuple[str, ...]
    """Fingerprints of the alerts that fire now."""
    alertnames: tuple[str, ...]
    """Every alert that ever belonged to it, in order of appearance."""
    started_at: float
    """When the trouble began: the first alert's `active_at`."""
    opened_at: float
    acted_at: float | None = None
    """When the first effect began."""
    escalated_at: float | None = None
    resolved_at: float | None = None
    acknowledged_at: float | None = None
    acknowledged_by: str = ""
    reason: str = ""
    """Why it is in this state, for people."""
    told: int = 0
    """How many notices have been sent about it."""
    healed: bool = False
    """A run of ours verified."""
    heard: tuple[str, ...] = ()
    """The alerts that people have been told of, in a notice that asks for them."""
    paged: bool = False
    """A person was asked for what only a person can do, while users were served."""
    hands_off: str = ""
    """Who cancelled its repair: until it is over, only a person begins another."""

    @property
    def seconds_to_detect(self) -> float:
        """From the first measurement that was wrong to the incident."""
        return self.opened_at - self.started_at

    @property
    def seconds_to_act(self) -> float | None:
        """From the incident to the first effect; None if there was none."""
        return None if self.acted_at is None else self.acted_at - self.opened_at

    @property
    def seconds_to_repair(self) -> float | None:
        """From the first wrong measurement to the resolution; None while unresolved."""
        return None if self.resolved_at is None else self.resolved_at - self.started_at


def severity_rank(severity: str) -> int:
    """Order of severities; an unknown one ranks as `warning`, so that it is neither lost nor a page."""
    return SEVERITIES.index(severity) if severity in SEVERITIES else 1


def open_incident(key: str, alert: Alert, now: float) -> Incident:
    """The incident that the first alert of `key` opens. Its id is 0 until the store gives it one."""
    label = alert.label
    return Incident(
        id=0,
        key=key,
        state=IncidentState.OPEN,
        title=alert.annotation.get("summary") or label.get("alertname", key),
        severity=label.get("severity", "warning"),
        labels=alert.labels,
        annotations=alert.annotations,
        firing=(alert.fingerprint,),
        alertnames=(label.get("alertname", ""),),
        started_at=min(alert.active_at, now),
        opened_at=now,
    )


def transition(incident: Incident, event: IncidentEvent, now: float, reason: str = "") -> Incident:
    """The incident after `event`. Raises TransitionError for an event that its state cannot take."""
    state = TRANSITIONS.get((incident.state, event))
    if state is None:
        raise TransitionError(f"incident {incident.id}", incident.state, event)
    moved = replace(incident, state=state, reason=reason or incident.reason)
    match event:
        case IncidentEvent.ESCALATED:
            return replace(moved, escalated_at=incident.escalated_at or now)
        case IncidentEvent.RECOVERED:
            return replace(moved, resolved_at=now)
        case IncidentEvent.MITIGATED:
            return replace(moved, healed=True)
        case _:
            return moved


def alert_fired(incident: Incident, alert: Alert, now: float) -> Incident:
    """Takes one more firing alert in; the most severe alert gives the incident its title and labels."""
    moved = transition(incident, IncidentEvent.ALERT_FIRED, now)
    name = alert.label.get("alertname", "")
    firing = (*(f for f in moved.firing if f != alert.fingerprint), alert.fingerprint)
    names = moved.alertnames if name in moved.alertnames else (*moved.alertnames, name)
    moved = replace(moved, firing=firing, alertnames=names)
    severity = alert.label.get("severity", "warning")
    same_rule_anew = name == dict(moved.labels).get("alertname") and severity == moved.severity
    if severity_rank(severity) <= severity_rank(moved.severity) and not same_rule_anew:
        return moved
    title = alert.annotation.get("summary") or name
    return replace(moved, severity=severity, title=title, labels=alert.labels, annotations=alert.annotations)


def alert_resolved(incident: Incident, fingerprint: str) -> Incident:
    """Takes one alert out of those that fire. The state stays: only RECOVERED ends an incident."""
    return replace(incident, firing=tuple(f for f in incident.firing if f != fingerprint))
