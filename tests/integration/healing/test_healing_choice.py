"""Which of several playbooks is begun for one target that is in more than one trouble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from healing_world import World, alert, playbook, rung, step

from watchdog.core.incidents import Incident
from watchdog.core.model import IncidentState, labels_of
from watchdog.playbooks.schema import Playbook

MakeWorld = Callable[..., World]


def for_alert(directory: Path, name: str, answers: str, **more: Any) -> Playbook:
    """A playbook of one rung that helps nothing."""
    return playbook(rung("one", step(directory, name)), name=name, answers=[f'alertname="{answers}"'], **more)


async def considered(world: World, incident: Incident) -> str | None:
    """The playbook of the run that is begun now, once that is over; None if none is."""
    world.desk.sync(world.firing.values())
    world.triage.consider(world.incident(incident))
    run_id = world.runner.run_of(incident.id)
    if run_id is None:
        return None
    await world.runner.finished(run_id)
    run = world.runs.get(run_id)
    assert run is not None
    return run.playbook


async def test_the_gravest_alert_is_answered_first(tmp_path: Path, make_world: MakeWorld) -> None:
    """A warning's playbook does not come before a critical alert's because of its name."""
    world = make_world(for_alert(tmp_path, "a-warning", "Slow"), for_alert(tmp_path, "b-critical", "Down"))
    slow = alert(name="Slow")
    incident = world.fire(replace(slow, labels=labels_of(slow.label, severity="warning")), alert())
    assert await considered(world, incident) == "b-critical"


async def test_another_trouble_is_not_hidden_by_one_that_nothing_helped(tmp_path: Path, make_world: MakeWorld) -> None:
    """After the first ladder was exhausted the other alert's playbook is tried at once; then both have been, and the
    longest backoff lies between further runs."""
    world = make_world(for_alert(tmp_path, "a", "Slow"), for_alert(tmp_path, "b", "Down"))
    incident = world.fire(alert(name="Slow"), alert())
    assert await considered(world, incident) == "a"
    assert world.incident(incident).state is IncidentState.ESCALATED
    assert await considered(world, incident) == "b"
    assert await considered(world, incident) is None
    assert world.effects == ["a", "b"]
