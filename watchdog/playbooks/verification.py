"""Whether a repair worked: what must hold, held for a time, by what the probes measure afterwards."""

from __future__ import annotations

from collections.abc import Callable

from watchdog.clock import Clock
from watchdog.core.incidents import Incident
from watchdog.core.model import Alert
from watchdog.core.targets import parse_target
from watchdog.errors import QueryError
from watchdog.playbooks.bell import Bell
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.schema import Playbook, Rung, fill
from watchdog.store.runs import Run
from watchdog.units import format_duration


class Verifier:
    """Looks again at each new measurement; never asks the action what it thinks it achieved."""

    def __init__(self, query: Callable[[str], bool], desk: Desk, clock: Clock, bell: Bell) -> None:
        """`query` says whether a PromQL expression gives at least one series now; `bell` rings on new measurements."""
        self._query = query
        self._desk = desk
        self._clock = clock
        self._bell = bell

    def holds(self, expression: str) -> bool:
        """Whether the expression gives at least one series; one that cannot be evaluated holds not."""
        try:
            return self._query(expression)
        except QueryError:
            return False

    def healthy(self, run: Run, playbook: Playbook, rung: Rung) -> bool:
        """What the rung wants to reach, at this instant."""
        return self._missing(run, playbook, rung) == ""

    def fires(self, run: Run, playbook: Playbook) -> bool:
        """Whether anything still fires that the playbook is for."""
        incident = self._desk.get(run.incident_id) if run.incident_id is not None else None
        return incident is not None and bool(self.answered(incident, playbook))

    def answered(self, incident: Incident, playbook: Playbook) -> list[Alert]:
        """The incident's firing alerts that the playbook is for: the others are not its to end."""
        kind = parse_target(incident.key).kind
        return [alert for alert in self._desk.alerts_of(incident) if playbook.is_for(alert.label, kind)]

    async def verify(self, run: Run, playbook: Playbook, rung: Rung) -> tuple[bool, str]:
        """Watches until it has held for `hold`: True; or `within` is over: False. With what was seen."""
        wanted = rung.verify
        began = self._clock.now()
        held_since: float | None = None
        while True:
            now = self._clock.now()
            missing = self._missing(run, playbook, rung)
            if rung.steps and held_since is not None and not playbook.mitigates and self.fires(run, playbook):
                # It broke again under the eyes of the verification: waiting longer would only lengthen the outage.
                return False, f"well for {format_duration(now - held_since)} only: {missing}"
            if missing or now < began + wanted.settle:
                held_since = None
            elif held_since is None:
                held_since = now
            if held_since is not None and now >= held_since + wanted.hold:
                return (
                    True,
                    f"well for {format_duration(now - held_since)}, after {format_duration(now - began)} of watching",
                )
            if now >= began + wanted.within:
                return (
                    False,
                    f"not well within {format_duration(wanted.within)}: {missing or 'it did not hold long enough'}",
                )
            ends = [began + wanted.within]
            if now < began + wanted.settle:
                ends.append(began + wanted.settle)
            if held_since is not None:
                ends.append(held_since + wanted.hold)
            await self._bell.wait(max(0.005, min(ends) - now))

    def _missing(self, run: Run, playbook: Playbook, rung: Rung) -> str:
        """What still lacks, in words; empty if nothing does."""
        incident = self._desk.get(run.incident_id) if run.incident_id is not None else None
        if incident is not None and not playbook.mitigates:
            names = sorted({alert.label.get("alertname", "?") for alert in self.answered(incident, playbook)})
            if names:
                return f"{', '.join(names)} still fires"
        expression = fill(rung.verify.expr, run.labels)
        if expression and not self.holds(expression):
            return f"{expression} does not hold"
        return ""
