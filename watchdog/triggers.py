"""Begins playbooks by time and at the word of other programs; the guards decide over them as over any other run."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from watchdog.core.incidents import TRANSITIONS, IncidentEvent
from watchdog.core.model import Sample, labels_of
from watchdog.core.targets import parse_target
from watchdog.errors import ActionError, StoreError
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.runner import Runner
from watchdog.playbooks.schema import Playbook
from watchdog.playbooks.triggers import ScheduleTrigger, WebhookTrigger
from watchdog.schedule import Schedule, Work
from watchdog.store.runs import Run, Runs

_FAILED = ("exhausted", "refused")
REMEMBERED_SECONDS = 86400.0
"""How long a failed run that was never followed by another is still said to be wrong."""

log = logging.getLogger("proxywatch.playbook")


class Triggers:
    """The jobs of all playbooks in force."""

    def __init__(self, *, schedule: Schedule, runner: Runner, desk: Desk, runs: Runs) -> None:
        self._schedule = schedule
        self._runner = runner
        self._desk = desk
        self._runs = runs
        self._jobs: dict[str, ScheduleTrigger] = {}

    def replace(self, playbooks: Mapping[str, Playbook]) -> None:
        """Takes over the schedules of these playbooks; one that has not changed keeps its time."""
        wanted = {
            f"playbook:{playbook.name}:{index}": (playbook.name, trigger)
            for playbook in playbooks.values()
            for index, trigger in enumerate(playbook.triggers)
            if isinstance(trigger, ScheduleTrigger)
        }
        for job in [job for job, known in self._jobs.items() if job not in wanted or wanted[job][1] != known]:
            self._schedule.remove(job)
            del self._jobs[job]
        for job, (name, trigger) in wanted.items():
            if job not in self._jobs:
                self._schedule.recur(job, self._work(name, trigger), cron=trigger.cron, interval=trigger.every or 0.0)
                self._jobs[job] = trigger

    def webhook(self, name: str) -> tuple[Playbook, WebhookTrigger] | None:
        """The playbook that a webhook of this name begins."""
        for playbook in self._runner.playbooks.values():
            for trigger in playbook.triggers:
                if isinstance(trigger, WebhookTrigger) and trigger.name == name:
                    return playbook, trigger
        return None

    def fire(self, playbook: Playbook, target: str, by: str) -> Run:
        """Begins a run for the target, and for its incident if there is one. Raises ActionError where a run of it is
        under way already, or a person wants it to be left alone."""
        for run in self._runs.unended():
            if (run.playbook, run.target) == (playbook.name, target):
                raise ActionError(f"run {run.id} of {playbook.name} is already under way on {target}")
        incident = self._desk.on(target)
        if incident is not None and incident.hands_off:
            raise ActionError(f"incident {incident.id} is left to people by {incident.hands_off}")
        if incident is not None and (incident.state, IncidentEvent.RUN_STARTED) not in TRANSITIONS:
            raise ActionError(f"incident {incident.id} is {incident.state}: no run can begin")
        return self._runner.begin(incident, playbook, target, trigger=by)

    def samples(self, now: float) -> list[Sample]:
        """By playbook and target: whether the last run that nobody watched failed, for it has no incident to tell it,
        and how many runs healed the target within a day, so that a ladder can tell what comes back."""
        healed = [
            Sample(
                "proxywatch_healed_runs", float(count), labels_of(playbook=playbook, subject=target, **_service(target))
            )
            for playbook, target, count in self._runs.healed(now - REMEMBERED_SECONDS)
        ]
        return healed + [
            Sample(
                "proxywatch_run_failed",
                float(run.state in _FAILED),
                labels_of(playbook=run.playbook, subject=run.target),
            )
            for run in self._runs.unwatched(now - REMEMBERED_SECONDS)
            if run.playbook in self._runner.playbooks
        ]

    def _work(self, name: str, trigger: ScheduleTrigger) -> Work:
        async def work() -> None:
            playbook = self._runner.playbooks.get(name)
            for target in trigger.targets if playbook is not None else ():
                assert playbook is not None
                try:
                    self.fire(playbook, target, "schedule")
                except ActionError as error:
                    self._desk.record("skipped", f"{name} was due by its schedule: {error}")
                except StoreError as error:
                    log.critical("%s is due on %s and cannot begin: %s", name, target, error)

        return work


def _service(target: str) -> dict[str, str]:
    """The label of the service that a target belongs to, where it belongs to one."""
    service = parse_target(target).labels.get("service")
    return {"service": service} if service else {}
