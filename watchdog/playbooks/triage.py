"""Triage: whether a run should begin for an incident, of which playbook, or whom to tell instead."""

from __future__ import annotations

from collections.abc import Iterable

from watchdog.clock import Clock
from watchdog.core.incidents import Incident, IncidentEvent, severity_rank
from watchdog.core.model import IncidentState
from watchdog.core.permission import Reason
from watchdog.core.routing import NoticeKind
from watchdog.core.targets import parse_target
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.guards import Guards
from watchdog.playbooks.runner import Runner, page_if_needed
from watchdog.playbooks.schema import Playbook, fill
from watchdog.playbooks.verification import Verifier
from watchdog.store.runs import Runs

_ACTING = ("auto", "approve")


class Triage:
    """Asked about an incident on every alert and every few seconds."""

    def __init__(
        self, *, desk: Desk, runs: Runs, runner: Runner, guards: Guards, verifier: Verifier, clock: Clock
    ) -> None:
        self._desk = desk
        self._runs = runs
        self._runner = runner
        self._guards = guards
        self._verifier = verifier
        self._clock = clock

    def playbook_for(self, incident: Incident) -> Playbook | None:
        """Which playbook answers what fires now, or fired, where the incident is over. Of several that for the gravest
        alert, of those the one that has been tried least: troubles of one target must not hide each other."""
        kind = parse_target(incident.key).kind
        labels = [alert.label for alert in self._desk.alerts_of(incident)]
        if not incident.firing:
            labels = [{**dict(incident.labels), "alertname": name} for name in incident.alertnames]
        grave: dict[str, int] = {}
        for playbook in self._playbooks(last_resort=False):
            if ranks := [severity_rank(each.get("severity", "")) for each in labels if playbook.is_for(each, kind)]:
                grave[playbook.name] = max(ranks)
        if len(grave) < 2:
            return next((self._runner.playbooks[name] for name in grave), None)
        tries = self._runs.tries(incident.id)
        return self._runner.playbooks[min(grave, key=lambda name: (-grave[name], tries.get(name, 0), name))]

    def last_resort_for(self, incident: Incident) -> Playbook | None:
        """What is left for a critical incident after its ladder was exhausted: each such playbook once an incident."""
        if incident.severity != "critical" or incident.state is not IncidentState.ESCALATED:
            return None
        runs = self._runs.of_incident(incident.id)
        if not any(run.state == "exhausted" for run in runs):
            return None
        kind = parse_target(incident.key).kind
        tried = {run.playbook for run in runs}
        return next(
            (
                playbook
                for playbook in self._playbooks(last_resort=True)
                if playbook.name not in tried
                and playbook.autonomy in _ACTING
                and any(playbook.is_for(alert.label, kind) for alert in self._desk.alerts_of(incident))
            ),
            None,
        )

    def _playbooks(self, *, last_resort: bool) -> Iterable[Playbook]:
        """By name."""
        playbooks = self._runner.playbooks
        return (playbooks[name] for name in sorted(playbooks) if playbooks[name].last_resort is last_resort)

    def consider(self, incident: Incident) -> None:
        """Decides by the incident's state whether a run should begin. Asked on every alert and every few seconds."""
        if not incident.firing or self._runner.busy(incident.id):
            return
        cause = self._desk.repaired_above(incident) or self._desk.explained_by(incident, self._needs(incident))
        if incident.state is IncidentState.SUPPRESSED:
            if cause is not None:
                return
            why = "still wrong although what explained it is over"
            incident = self._desk.move(incident.id, IncidentEvent.RELEASED, why)
        elif cause is not None and incident.state is IncidentState.OPEN:
            why = f"{cause.key} explains it (incident {cause.id}); nothing is done here while that lasts"
            self._desk.suppress(incident.id, why)
            return
        resort = None if incident.hands_off else self.last_resort_for(incident)
        if resort is not None:
            self._runner.begin(incident, resort, incident.key)
            return
        playbook = self.playbook_for(incident)
        if playbook is None or playbook.autonomy not in _ACTING or incident.hands_off:
            self._tell_unhandled(incident)
            return
        match incident.state:
            case IncidentState.OPEN | IncidentState.HEALING:
                self._runner.begin(incident, playbook, incident.key)
            case IncidentState.VERIFYING if not self._kept_at_bay(incident, playbook):
                self._runner.begin(incident, playbook, incident.key)
            case IncidentState.ESCALATED:
                refused = self._retry_refused(incident, playbook)
                if refused is None:
                    self._runner.begin(incident, playbook, incident.key)
                else:
                    self._tell_unhandled(incident, refused)
            case IncidentState.VERIFYING:
                labels = {**dict(incident.labels), **parse_target(incident.key).labels}
                page_if_needed(self._desk, self._verifier, incident, playbook, labels)
                self._tell_unhandled(incident)
            case _:
                self._tell_unhandled(incident)

    def _tell_unhandled(self, incident: Incident, given_up: str = "") -> None:
        """Tells of alerts that nothing repairs, or not now because that was `given_up`, and of which nobody has heard,
        each once an incident: what joins an incident that people know of may be another trouble, or a worse one."""
        incident = self._desk.get(incident.id) or incident
        kind = parse_target(incident.key).kind
        whys = []
        for alert in self._desk.unheard(incident):
            found = [playbook for playbook in self._playbooks(last_resort=False) if playbook.is_for(alert.label, kind)]
            if incident.hands_off:
                whys.append(f"{incident.hands_off} cancelled its repair")
            elif not any(playbook.autonomy in _ACTING for playbook in found):
                whys.append(self._runner.intention(incident, found[0]) if found else "no playbook answers it")
            elif given_up:
                whys.append(f"its repair was given up and may not be tried again yet: {given_up}")
        if whys:
            why = "; ".join(dict.fromkeys(whys))
            with self._desk.transaction():
                self._desk.tell(incident.id, "unhandled", why)
                self._desk.announce(incident.id, NoticeKind.OPENED, why)

    def _needs(self, incident: Incident) -> Iterable[str]:
        service = parse_target(incident.key).labels.get("service", "")
        return self._guards.needs(service) if service else ()

    def _kept_at_bay(self, incident: Incident, playbook: Playbook) -> bool:
        """Whether what the last run reached still holds, although the cause goes on."""
        labels = {**dict(incident.labels), **parse_target(incident.key).labels}
        if not (playbook.mitigates and incident.healed):
            return False
        return not playbook.at_bay or self._verifier.holds(fill(playbook.at_bay, labels))

    def _retry_refused(self, incident: Incident, playbook: Playbook) -> str | None:
        """After a person was told, trying goes on as far as the guards allow, with the longest backoff between runs; at
        once for another trouble of the same target, whose playbook was not tried yet. None if it may go on, why the
        guards refuse, and nothing while it is too early to ask them."""
        last = self._runs.last_of_incident(incident.id)
        if last is None or last.ended_at is None:
            return ""
        too_early = self._clock.now() < last.ended_at + self._guards.limits.backoff_max
        if too_early and playbook.name in self._runs.tries(incident.id):
            return ""
        rung = next((r for r in playbook.ladder if r.steps), playbook.ladder[0])
        wish = self._runner.clearance.wish(last, playbook, rung)
        denied = self._runs.denied(incident.id, playbook.name, rung.rung)
        denials = [
            denial
            for denial in self._guards.ask(wish, playbook, incident.id).denials
            if denial.reason is not Reason.APPROVAL or denied
        ]
        return denials[0].text if denials else None
