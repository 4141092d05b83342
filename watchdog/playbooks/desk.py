"""The incident desk: takes alerts in, keeps each incident's state and story, and says what is to be told.

Every change is one transaction: alert, incident, story and notice become durable together or not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from watchdog.clock import Clock
from watchdog.core.incidents import (
    TRANSITIONS,
    Incident,
    IncidentEvent,
    alert_fired,
    alert_resolved,
    open_incident,
    severity_rank,
    transition,
)
from watchdog.core.model import Alert, AlertChange, AlertEvent, AlertState, IncidentState, TimelineEntry
from watchdog.core.routing import Notice, NoticeKind, notice_key
from watchdog.core.steadiness import Steadiness, chronic
from watchdog.core.targets import parse_target, target_of
from watchdog.playbooks.unresolved import Unresolved
from watchdog.store.alerts import Alerts
from watchdog.store.database import Database
from watchdog.store.history import History
from watchdog.store.incidents import Incidents
from watchdog.units import format_duration

log = logging.getLogger("proxywatch.incident")

SYMPTOM = ("symptom", "true")
"""The label pair of rules that see an effect (errors, latency), which a remote fault may cause as well as a local."""
EXPLAINED_SECONDS = 900.0
_RESULTS = frozenset({"done", "failed", "not_done", "unknown", "verified", "refused", "escalated", "resolved"})
STORY_IN_NOTICE = 12
"""Lines of the story that a notice carries; the whole stays in the store."""


class Desk:
    """All unresolved incidents in memory, the same in the store. Used from the event loop's thread only."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        alert: Callable[[str], Alert | None],
        announce: Callable[[Notice], None],
        acknowledged: Callable[[int], None],
    ) -> None:
        """`alert` gives the rule engine's alert with a fingerprint; `announce` takes a notice and `acknowledged` an
        incident that a person has, both within the current transaction."""
        self._database = database
        self._clock = clock
        self._alert = alert
        self._announce = announce
        self._acknowledged = acknowledged
        self.incidents = Incidents(database)
        self.history = History(database)
        self._alerts = Alerts(database)
        self._open = Unresolved(self.incidents.unresolved())
        self.at_work: Callable[[int], str] = lambda _incident: ""
        """The playbook of which a run is under way for an incident, empty if none is; the runner sets it."""

    @property
    def unresolved(self) -> list[Incident]:
        """Oldest first."""
        return list(self._open)

    @property
    def revision(self) -> int:
        """Another number whenever an incident comes, goes, or begins or ceases to have firing alerts."""
        return self._open.revision

    def on(self, target: str) -> Incident | None:
        """The unresolved incident of a target."""
        return self._open.on(target)

    def get(self, incident_id: int) -> Incident | None:
        """An incident, resolved or not."""
        return self._open.get(incident_id) or self.incidents.get(incident_id)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is done inside becomes durable together or not at all; incidents in memory go back with the store."""
        before = self._open.copy()
        try:
            with self._database.transaction():
                yield
        except BaseException:
            self._open = before
            raise

    def alerts_of(self, incident: Incident) -> list[Alert]:
        """The alerts of an incident that fire now."""
        return [alert for alert in map(self._alert, incident.firing) if alert is not None]

    def explained_by(self, incident: Incident, needs: Iterable[str]) -> Incident | None:
        """The incident that explains this one: of something that it `needs` (targets), or, for what shows only
        symptoms, of something remote: that much only for a while, for a failover ends symptoms. None for one that
        nothing explains."""
        alerts = self.alerts_of(incident)
        young = self._clock.now() < incident.opened_at + EXPLAINED_SECONDS
        symptoms = young and bool(alerts) and all(SYMPTOM in alert.labels for alert in alerts)
        found = [one for one in map(self._open.on, needs) if one is not None]
        found += [one for one in self._open if parse_target(one.key).remote] if symptoms else []
        others = (one for one in found if one.id != incident.id and one.state is not IncidentState.SUPPRESSED)
        return min(others, key=lambda one: one.id, default=None)

    def repaired_above(self, incident: Incident) -> Incident | None:
        """The incident of what contains this one's target, if a run is at work on it: then this one only waits."""
        parent = parse_target(incident.key).parent
        above = None if parent is None else self._open.on(str(parent))
        return above if above is not None and self.at_work(above.id) else None

    def take(self, events: Iterable[AlertEvent]) -> list[Incident]:
        """Takes alert changes in; returns the incidents that something firing was added to."""
        touched: dict[int, None] = {}
        events = tuple(events)
        with self.transaction():
            self._alerts.apply(events)
            for event in events:
                if event.change is AlertChange.FIRING:
                    touched[self._fired(event.alert)] = None
                elif event.change is AlertChange.RESOLVED:
                    self._cleared(event.alert)
        return [self._open[identifier] for identifier in touched if identifier in self._open]

    def sync(self, alerts: Iterable[Alert]) -> list[Incident]:
        """Makes incidents agree with the alerts that really fire, whatever was missed while nothing could be written
        or nobody was there. Returns the incidents that something firing was added to."""
        firing = {alert.fingerprint: alert for alert in alerts if alert.state is AlertState.FIRING}
        now = self._clock.now()
        missed = [AlertEvent(AlertChange.FIRING, a, now) for f, a in firing.items() if self._open.with_alert(f) is None]
        touched = self.take(missed) if missed else []
        for incident in self.unresolved:
            for fingerprint in set(incident.firing) - firing.keys():
                self._put(alert_resolved(self._open[incident.id], fingerprint))
            self.settle(incident.id)
        return touched

    def advance(self, incident_id: int | None, event: IncidentEvent, reason: str = "", *, news: bool = False) -> None:
        """Moves the incident, if there is one and its state can take the event."""
        incident = self.get(incident_id) if incident_id is not None else None
        if incident is not None and (incident.state, event) in TRANSITIONS:
            self.move(incident.id, event, reason, news=news)

    def move(self, incident_id: int, event: IncidentEvent, reason: str = "", *, news: bool = False) -> Incident:
        """One event over one incident. That it was given up is told once, and again if that is `news`."""
        with self.transaction():
            now = self._clock.now()
            incident = transition(self._open[incident_id], event, now, reason)
            if event is IncidentEvent.ESCALATED:
                news = news or self._open[incident_id].escalated_at is None or bool(self.unheard(incident))
                self._put(incident)
                self.tell(incident_id, "escalated", reason)
                if news:
                    self.announce(incident_id, NoticeKind.ESCALATED, reason)
            else:
                self._put(incident)
        return self._open[incident_id]

    def page(self, incident_id: int, reason: str) -> None:
        """Tells a person what only a person can do, although the incident is being kept at bay; once an incident. That
        it was given up after all is told as well."""
        incident = self._open[incident_id]
        if incident.paged or incident.escalated_at is not None:
            return
        with self.transaction():
            self._put(replace(incident, paged=True, reason=reason))
            self.tell(incident_id, "person_needed", reason)
            self.announce(incident_id, NoticeKind.ESCALATED, reason)

    def settle(self, incident_id: int) -> None:
        """Resolves the incident if nothing of it fires any more and no run is under way."""
        incident = self._open.get(incident_id)
        if incident is None or incident.firing or self.at_work(incident_id):
            return
        with self.transaction():
            incident = transition(incident, IncidentEvent.RECOVERED, self._clock.now())
            self._put(incident)
            how = "healed" if incident.healed else "over without a repair of ours"
            seconds = incident.seconds_to_repair or 0.0
            self.tell(incident.id, "resolved", f"{how}, {format_duration(seconds)} after it began")
            kind = NoticeKind.HEALED if incident.healed else NoticeKind.RESOLVED
            self._say(incident, kind, how)

    def healed(self, incident_id: int, steadiness: Steadiness) -> None:
        """A run of ours verified. What is healed again and again without ever being well for long goes to a person."""
        with self.transaction():
            now = self._clock.now()
            incident = replace(self._open[incident_id], healed=True)
            self._put(incident)
            before = self.incidents.healed(incident.key, now - steadiness.chronic_window)
            troubles = self.incidents.troubles_of(incident.key, now - steadiness.chronic_window)
            count = chronic([*before, now], troubles, now, steadiness)
            if count is not None:
                hours = format_duration(steadiness.chronic_window)
                well = format_duration(steadiness.chronic_well)
                self.page(
                    incident_id,
                    f"chronic: healed {count} times within {hours} and never well for {well} in between;"
                    " it works again, but its cause needs a person",
                )

    def suppress(self, incident_id: int, why: str) -> None:
        """Something else explains it: nobody is told, and nothing is done, while that lasts."""
        with self.transaction():
            self._put(transition(self._open[incident_id], IncidentEvent.SUPPRESSED, self._clock.now(), why))
            self.tell(incident_id, "suppressed", why)

    def leave_alone(self, incident_id: int, who: str) -> None:
        """From now on only a person begins a repair of it."""
        incident = self._open.get(incident_id)
        if incident is not None:
            self._put(replace(incident, hands_off=who, reason=f"left to people by {who}"))

    def acted(self, incident_id: int) -> None:
        """An effect is about to begin."""
        incident = self._open[incident_id]
        if incident.acted_at is None:
            self._put(replace(incident, acted_at=self._clock.now()))

    def acknowledge(self, incident_id: int, who: str) -> Incident:
        """A person has it. KeyError if it is resolved or unknown."""
        incident = replace(self._open[incident_id], acknowledged_at=self._clock.now(), acknowledged_by=who)
        with self.transaction():
            self._put(incident)
            self.tell(incident_id, "acknowledged", f"acknowledged by {who}")
            self._acknowledged(incident_id)
        return incident

    def tell(self, incident_id: int | None, kind: str, text: str, data: Mapping[str, object] | None = None) -> None:
        """Adds a line to the story and to the log."""
        level = logging.WARNING if kind in {"opened", "escalated", "failed"} else logging.INFO
        incident = self.get(incident_id) if incident_id is not None else None
        subject = f"incident {incident.id} {incident.key}" if incident else "no incident"
        found = {
            "incident": incident_id,
            "kind": kind,
            "target": incident.key if incident else "",
            "playbook": (data or {}).get("playbook") or (self.at_work(incident.id) if incident else ""),
            "step": (data or {}).get("key", ""),
            "result": kind.removeprefix("rung_") if kind in _RESULTS or kind.startswith("rung_") else "",
        }
        log.log(level, "%s: %s: %s", subject, kind, text, extra=found)
        if incident_id is not None:
            self.incidents.tell(incident_id, TimelineEntry(self._clock.now(), kind, text, data or {}))

    def record(self, kind: str, text: str) -> None:
        """Something that concerns the whole agent and no incident: for the history and the log."""
        log.warning("%s: %s", kind, text)
        self.history.record(self._clock.now(), kind, text)

    def announce(self, incident_id: int, kind: NoticeKind, reason: str, advice: tuple[str, ...] = ()) -> None:
        """Says something about an unresolved incident, in the current transaction or in one of its own. `advice` is
        what to do by hand before anything else."""
        with self.transaction():
            self._say(self._open[incident_id], kind, reason, advice)

    def unheard(self, incident: Incident) -> list[Alert]:
        """The incident's firing alerts of which nobody has been told yet and that are no lesser trouble than it is:
        that a failing provider's circuit is open too, nobody has to be told."""
        least = severity_rank(incident.severity)
        return [
            alert
            for alert in self.alerts_of(incident)
            if alert.label.get("alertname", "") not in incident.heard
            and severity_rank(alert.label.get("severity", "warning")) >= least
        ]

    def _say(self, incident: Incident, kind: NoticeKind, reason: str, advice: tuple[str, ...] = ()) -> None:
        told = incident.told + 1
        said = replace(incident, told=told, heard=incident.alertnames)
        if incident.id in self._open:
            self._put(said)
        else:
            self.incidents.save(said)
        story = self.incidents.end_of_story(incident.id, STORY_IN_NOTICE)
        self._announce(
            Notice(
                incident_id=incident.id,
                kind=kind,
                key=notice_key(incident.id, kind, told),
                labels=incident.labels,
                annotations=incident.annotations,
                started_at=incident.started_at,
                ended_at=incident.resolved_at,
                alerts=tuple(self.alerts_of(incident)),
                story=tuple(story),
                reason=reason,
                advice=(*advice, *_advice(incident, kind)),
            )
        )

    def _fired(self, alert: Alert) -> int:
        now = self._clock.now()
        key = str(target_of(alert.label, alert.fingerprint))
        summary = alert.annotation.get("summary") or alert.label.get("alertname", "")
        incident = self._open.on(key)
        if incident is None:
            incident = self.incidents.save(open_incident(key, alert, now))
            self._open.put(incident)
            took = format_duration(incident.seconds_to_detect)
            self.tell(incident.id, "opened", f"{summary} (noticed after {took})", _evidence(alert))
            above = self.repaired_above(incident)
            if above is not None:
                reason = f"{above.key}, which contains it, is being repaired (incident {above.id})"
                self._put(transition(incident, IncidentEvent.SUPPRESSED, now, reason))
                self.tell(incident.id, "suppressed", reason)
        elif alert.fingerprint not in incident.firing:
            self._put(alert_fired(incident, alert, now))
            self.tell(incident.id, "alert", summary, _evidence(alert))
        return incident.id

    def _cleared(self, alert: Alert) -> None:
        incident = self._open.with_alert(alert.fingerprint)
        if incident is None:
            return
        self._put(alert_resolved(incident, alert.fingerprint))
        self.tell(incident.id, "cleared", f"{alert.label.get('alertname', 'alert')} no longer fires")
        self.settle(incident.id)

    def _put(self, incident: Incident) -> None:
        self.incidents.save(incident)
        self._open.put(incident)


def _evidence(alert: Alert) -> dict[str, object]:
    return {"value": alert.value, "labels": alert.label, "description": alert.annotation.get("description", "")}


def _advice(incident: Incident, kind: NoticeKind) -> tuple[str, ...]:
    if kind in {NoticeKind.RESOLVED, NoticeKind.HEALED}:
        return ()
    return (
        f"proxywatch incident show {incident.id}   (the whole story and its evidence)",
        f"proxywatch explain {incident.id}   (what may be done next, and what is refused and why)",
        f"proxywatch incident ack {incident.id}   (stops the repetition of this message)",
    )
