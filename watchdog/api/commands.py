"""What the control API changes: acknowledgements, runs by a person, pauses, a measurement at once."""

from __future__ import annotations

import asyncio
from typing import Any

from watchdog.api import overview, plan, views
from watchdog.api.parts import Parts
from watchdog.api.shapes import moment
from watchdog.core.incidents import TRANSITIONS, Incident, IncidentEvent
from watchdog.core.permission import Pause
from watchdog.core.targets import Target, parse_target
from watchdog.errors import ControlError
from watchdog.healing import kill_switch
from watchdog.playbooks.schema import Playbook

Shape = dict[str, Any]


class RefusedError(ControlError):
    """A request that cannot be done; `status` is the HTTP status that says why."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


def no_incident(incident_id: int) -> RefusedError:
    """There is no such incident."""
    return RefusedError(
        404, f"there is no incident {incident_id}", "`proxywatch incident list --all` shows which there are"
    )


def find_playbook(parts: Parts, name: str) -> Playbook:
    """The playbook in force. Raises RefusedError."""
    found = parts.runner.playbooks.get(name)
    if found is None:
        known = ", ".join(sorted(parts.runner.playbooks)) or "none"
        raise RefusedError(404, f"there is no playbook {name!r}", f"playbooks: {known}")
    return found


async def run_probe(parts: Parts, name: str) -> Shape:
    """Measures at once; the probe with its samples. Raises RefusedError for an unknown name."""
    try:
        await parts.probe_now(name)
        return {"now": moment(parts.clock.now()), **views.probe(parts, name, samples=True)}
    except KeyError:
        known = ", ".join(sorted(parts.loaded.config.probes)) or "none"
        raise RefusedError(404, f"there is no probe {name!r}", f"probes: {known}") from None


def acknowledge(parts: Parts, incident_id: int, who: str) -> Shape:
    """Writes that `who` has it; the incident. Raises RefusedError if there is none or it is over."""
    incident = parts.desk.get(incident_id)
    if incident is None:
        raise no_incident(incident_id)
    if incident.resolved_at is not None:
        raise RefusedError(
            409, f"incident {incident_id} is resolved already", f"`proxywatch incident show {incident_id}`"
        )
    incident = parts.desk.acknowledge(incident_id, who)
    parts.bell.ring()
    return {"now": moment(parts.clock.now()), **views.incident_summary(parts, incident)}


def run_playbook(parts: Parts, name: str, target: str, who: str, dry_run: bool) -> Shape:
    """Begins a run, or shows what it would do. Raises RefusedError for what cannot be run on this target now."""
    playbook = find_playbook(parts, name)
    key = str(_checked_target(parts, playbook, target))
    incident = parts.desk.on(key)
    if dry_run:
        return plan.plan(parts, playbook, key, incident)
    if incident is not None:
        _require_free(parts, incident)
    run = parts.runner.begin(incident, playbook, key, trigger="person")
    if run.incident_id is None:
        parts.desk.record("asked", f"{who} asked for run {run.id} of {playbook.name} on {key}")
    else:
        parts.desk.tell(run.incident_id, "asked", f"{who} asked for {playbook.name}")
    return {"now": moment(parts.clock.now()), **views.run_shape(run, [])}


def _checked_target(parts: Parts, playbook: Playbook, text: str) -> Target:
    try:
        target = parse_target(text)
    except ValueError as error:
        raise RefusedError(400, str(error), f"{playbook.name} repairs: {', '.join(playbook.targets)}") from None
    if target.kind not in playbook.targets:
        kinds = ", ".join(playbook.targets)
        raise RefusedError(400, f"{playbook.name} cannot repair a {target.kind}", f"it repairs: {kinds}")
    service = target.labels.get("service")
    if service is not None and service not in parts.services:
        known = ", ".join(parts.services) or "none"
        raise RefusedError(400, f"there is no service {service!r}", f"services: {known}")
    return target


def _require_free(parts: Parts, incident: Incident) -> None:
    run = parts.runner.run_of(incident.id)
    if run is not None:
        hint = f"`proxywatch explain {incident.id}` shows what it waits for"
        raise RefusedError(409, f"run {run} is already under way for incident {incident.id}", hint)
    if (incident.state, IncidentEvent.RUN_STARTED) not in TRANSITIONS:
        raise RefusedError(
            409, f"incident {incident.id} is {incident.state}: no run can begin", "try again in a moment"
        )


async def wait_for_run(parts: Parts, run_id: int, wait: float) -> Shape:
    """The run, after its end or `wait` seconds. Raises RefusedError for an unknown one."""
    if parts.runs.get(run_id) is None:
        raise RefusedError(404, f"there is no run {run_id}", "`proxywatch incident show ID` names its runs")
    if wait > 0:
        try:
            async with asyncio.timeout(wait):
                await parts.runner.finished(run_id)
        except TimeoutError:
            pass
    run = parts.runs.get(run_id)
    if run is None:
        raise RefusedError(404, f"run {run_id} has been forgotten meanwhile", "history is kept for a limited time")
    doing = views.running(parts, run, _incident_of(parts, run.incident_id)) if run.ended_at is None else None
    return {
        "now": moment(parts.clock.now()),
        **views.run_shape(run, parts.runs.effects_of(run.id)),
        "running": doing,
    }


def _incident_of(parts: Parts, incident_id: int | None) -> Incident | None:
    return None if incident_id is None else parts.desk.get(incident_id)


def pause(parts: Parts, reason: str, who: str, duration: float | None) -> Shape:
    """Nothing acts from now on, for `duration` seconds or until `resume`; measuring and telling go on."""
    now = parts.clock.now()
    until = None if duration is None else now + duration
    parts.facts.pause(Pause(reason or "no reason given", who, now, until), now)
    parts.desk.record("paused", f"by {who}: {reason or 'no reason given'}")
    parts.bell.ring()
    return {"now": moment(now), "pauses": overview.pauses(parts)}


def resume(parts: Parts, who: str) -> Shape:
    """Takes every pause away, the kill switch too; `ended` is how many there were. Raises RefusedError."""
    ended = len(parts.surroundings.pauses(parts.clock.now()))
    switch = kill_switch(parts.loaded.config.state_dir)
    try:
        switch.unlink(missing_ok=True)
    except OSError as error:
        raise RefusedError(500, f"{switch} cannot be removed: {error.strerror}", "remove it as its owner") from error
    parts.facts.resume()
    if ended:
        parts.desk.record("resumed", f"by {who}: {'1 pause' if ended == 1 else f'{ended} pauses'} ended")
    parts.bell.ring()
    return {"now": moment(parts.clock.now()), "ended": ended, "pauses": overview.pauses(parts)}
