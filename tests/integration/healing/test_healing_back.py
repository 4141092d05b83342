"""Retries, the way back, and the last resort."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from healing_world import LIMITS, World, alert, check, playbook, rung, step, until

from watchdog.core.model import IncidentState, Outcome, labels_of
from watchdog.core.permission import Denial, Reason, Window
from watchdog.playbooks.schema import Playbook

MakeWorld = Callable[..., World]

FLAKY = """#!/bin/sh
# flaky.sh N: fails N times without having done anything, then does it.
cd "${0%/*}" || exit 9
echo try >> tries
[ "$(wc -l < tries)" -gt "$1" ] || exit 1
echo flaky >> effects; : > truths/well
"""


def flaky(directory: Path, failures: int, **more: Any) -> dict[str, Any]:
    script = directory / "flaky.sh"
    script.write_text(FLAKY)
    argv = ["sh", str(script), str(failures)]
    return {"kind": "command", "argv": argv, "timeout": "10s", "retry_pause": "5ms", **more}


def tries(directory: Path) -> int:
    return (directory / "tries").read_text().count("try")


@pytest.mark.parametrize(("failures", "retries", "tried", "ended"), [(2, 2, 3, "verified"), (3, 2, 3, "exhausted")])
async def test_a_step_that_did_not_happen_is_tried_again(
    tmp_path: Path, make_world: MakeWorld, failures: int, retries: int, tried: int, ended: str
) -> None:
    """A failed step that the world shows not to have happened is tried as often as it may; what did not happen is
    charged to no budget."""
    body = flaky(tmp_path, failures, retries=retries, check=check(tmp_path, "flaky"))
    world = make_world(playbook(rung("one", body)))
    run = await world.heal(world.fire(alert()))
    assert (run.state, tries(tmp_path)) == (ended, tried)
    outcomes = [effect.outcome for effect in world.runs.effects_of(run.id)]
    assert outcomes == [Outcome.NOT_DONE] * (tried - 1) + [Outcome.DONE if ended == "verified" else Outcome.FAILED]
    assert len(world.runs.past_effects(0.0)) == 1


async def test_what_may_have_happened_is_not_tried_again(tmp_path: Path, make_world: MakeWorld) -> None:
    """A failed step of which nothing tells whether it happened is not repeated, however many retries it has."""
    world = make_world(playbook(rung("one", flaky(tmp_path, 1, retries=3))))
    run = await world.heal(world.fire(alert()))
    assert (run.state, tries(tmp_path)) == ("exhausted", 1)


async def test_nothing_is_tried_again_while_paused(tmp_path: Path, make_world: MakeWorld) -> None:
    """The kill switch thrown between two tries stops the second until it is taken away."""
    body = flaky(tmp_path, 1, retries=1, check=check(tmp_path, "flaky")) | {"retry_pause": "50ms"}
    world = make_world(playbook(rung("one", body)))
    incident = world.fire(alert())
    healing = asyncio.create_task(world.heal(incident))
    await until((tmp_path / "tries").exists)
    (tmp_path / "pause").touch()
    await until(lambda: world.story(incident, "refused"))
    assert tries(tmp_path) == 1
    (tmp_path / "pause").unlink()
    world.bell.ring()
    assert (await healing).state == "verified"
    assert tries(tmp_path) == 2


async def test_continue_goes_on_after_a_failed_step(tmp_path: Path, make_world: MakeWorld) -> None:
    """With `on_failure: continue` the rest of the rung is done, and what must hold afterwards decides."""
    bad = {"kind": "command", "argv": ["false"], "timeout": "5s", "on_failure": "continue"}
    world = make_world(playbook(rung("one", bad, step(tmp_path, "next", "well"))))
    run = await world.heal(world.fire(alert()))
    assert (run.state, world.effects) == ("verified", ["next"])


@pytest.mark.parametrize("how", ["step", "verification"])
async def test_what_did_not_help_is_undone(tmp_path: Path, make_world: MakeWorld, how: str) -> None:
    """A failed step or verification rolls the rung back, every step of the way, before the next rung; what is undone is
    charged to no budget."""
    steps = [step(tmp_path, "change")]
    if how == "step":
        steps.append({"kind": "command", "argv": ["false"], "timeout": "5s"})
    back = [step(tmp_path, "back-a"), step(tmp_path, "back-b")]
    world = make_world(playbook(rung("one", *steps, roll_back=back), rung("two", step(tmp_path, "two", "well"))))
    run = await world.heal(world.fire(alert()))
    assert world.effects == ["change", "back-a", "back-b", "two"]
    assert [a.outcome for a in run.attempts] == ["failed", "verified"]
    assert run.attempts[0].note.endswith("; undone")
    charged = [e.action for e in world.runs.effects_of(run.id) if e.disruptive]
    assert len(charged) == (3 if how == "step" else 2)


async def test_nothing_is_undone_where_nothing_was_done_or_it_helped(tmp_path: Path, make_world: MakeWorld) -> None:
    """A rung that verified, and one whose first step could not even be looked at, are not rolled back."""
    unlooked = {"kind": "restart_service"}
    back = [step(tmp_path, "back")]
    world = make_world(
        playbook(rung("one", unlooked, roll_back=back), rung("two", step(tmp_path, "two", "well"), roll_back=back))
    )
    run = await world.heal(world.fire(alert()))
    assert [a.outcome for a in run.attempts] == ["failed", "verified"]
    assert world.effects == ["two"]


async def test_what_cannot_be_undone_goes_to_a_person(tmp_path: Path, make_world: MakeWorld) -> None:
    """A way back that fails is walked to its end all the same; then nothing more is tried, and a person is told why."""
    back = [{"kind": "command", "argv": ["false"], "timeout": "5s"}, step(tmp_path, "back")]
    world = make_world(
        playbook(rung("one", step(tmp_path, "change"), roll_back=back), rung("two", step(tmp_path, "two", "well")))
    )
    incident = world.fire(alert())
    run = await world.heal(incident)
    assert (run.state, world.effects) == ("exhausted", ["change", "back"])
    assert world.incident(incident).state is IncidentState.ESCALATED
    assert "could not be undone" in world.told("escalated")[0][1]


def books(directory: Path, **more: Any) -> tuple[Playbook, Playbook]:
    return (
        playbook(rung("one", step(directory, "one"))),
        playbook(rung("all", step(directory, "resort", "well")), name="emergency", last_resort=True, **more),
    )


async def consider(world: World) -> None:
    """As the daemon does, until nothing is under way."""
    for incident in world.desk.unresolved:
        world.triage.consider(incident)
    for run in world.runs.unended():
        await world.runner.finished(run.id)


async def test_the_last_resort_comes_last_and_once(tmp_path: Path, make_world: MakeWorld) -> None:
    """A critical incident whose ladder is exhausted gets the last resort, once; not before, and no lesser incident."""
    emergency = playbook(rung("all", step(tmp_path, "resort")), name="emergency", last_resort=True)
    world = make_world(books(tmp_path)[0], emergency)
    minor = replace(
        alert("service:minor"), labels=labels_of(alertname="Down", severity="warning", target="service:minor")
    )
    grave, minor_incident = world.fire(alert()), world.fire(minor)
    await consider(world)
    assert world.effects == ["one", "one"]
    assert world.incident(grave).state is IncidentState.ESCALATED
    for _ in range(3):
        await consider(world)
    assert world.effects == ["one", "one", "resort"]
    assert [run.playbook for run in world.runs.of_incident(grave.id)] == ["restore", "emergency"]
    assert [run.playbook for run in world.runs.of_incident(minor_incident.id)] == ["restore"]


async def test_the_last_resort_heals(tmp_path: Path, make_world: MakeWorld) -> None:
    """What the last resort brings back to health is resolved as healed."""
    world = make_world(*books(tmp_path))
    incident = world.fire(alert())
    measuring = asyncio.create_task(world.measure())
    await consider(world)
    await consider(world)
    await until(lambda: world.incident(incident).state is IncidentState.RESOLVED)
    measuring.cancel()
    assert world.incident(incident).healed


async def test_the_last_resort_is_refused_what_people_took_over(tmp_path: Path, make_world: MakeWorld) -> None:
    """An incident whose repair a person cancelled gets no last resort either."""
    world = make_world(*books(tmp_path))
    incident = world.fire(alert())
    await consider(world)
    world.desk.leave_alone(incident.id, "anna")
    await consider(world)
    assert world.effects == ["one"]


async def test_what_systemd_repairs_by_itself_is_left_to_it(tmp_path: Path, make_world: MakeWorld) -> None:
    """While a service's own supervisor is busy with it the run waits; when that is over it acts."""
    world = make_world(playbook(rung("one", step(tmp_path, "one", "well"))))
    world.supervised["web"] = Denial(Reason.SUPERVISOR_BUSY, "systemd itself starts web.service again")
    incident = world.fire(alert())
    healing = asyncio.create_task(world.heal(incident))
    await until(lambda: world.story(incident, "refused"))
    assert "systemd itself starts web.service again" in world.story(incident, "refused")[0]
    assert world.effects == []
    world.supervised.clear()
    world.bell.ring()
    assert (await healing).state == "verified"
    assert world.effects == ["one"]


async def test_a_yes_is_for_what_was_shown(tmp_path: Path, make_world: MakeWorld) -> None:
    """Each rung that wants a person's approval asks for itself: a yes to the first is none to the next."""
    asks = {"autonomy": "approve"}
    world = make_world(
        playbook(rung("one", step(tmp_path, "one"), **asks), rung("two", step(tmp_path, "two", "well"), **asks))
    )
    incident = world.fire(alert())
    healing = asyncio.create_task(world.heal(incident))
    await until(lambda: len(world.told("approval")) == 1)
    (run,) = world.runs.unended()
    world.runner.answer(run.id, "anna", granted=True)
    await until(lambda: len(world.told("approval")) == 2)
    assert world.effects == ["one"]
    assert "at rung two" in world.told("approval")[1][1]
    world.runner.answer(run.id, "anna", granted=True)
    assert (await healing).state == "verified"
    assert world.effects == ["one", "two"]


async def test_a_cancellation_survives_the_agent(tmp_path: Path, make_world: MakeWorld) -> None:
    """Cancelled while it waited, a run is not gone on with by the agent's next life either."""
    world = make_world(playbook(rung("one", step(tmp_path, "one", "well"))))
    (tmp_path / "pause").touch()
    incident = world.fire(alert())
    run = world.begin(incident)
    await until(lambda: world.story(incident, "refused"))
    world.runs.cancel(run, "anna")
    await world.close()
    (tmp_path / "pause").unlink()
    again = make_world(playbook(rung("one", step(tmp_path, "one", "well"))))
    again.firing = {alert().fingerprint: alert()}
    await again.runner.resume()
    assert (await again.ended(run)).state == "cancelled"
    assert again.effects == []
    assert again.incident(incident).hands_off == "anna"


async def test_a_no_is_not_asked_for_again(tmp_path: Path, make_world: MakeWorld) -> None:
    """Whoever said no to a rung is not asked the same again for the same incident, however often it is tried."""
    world = make_world(
        playbook(rung("one", step(tmp_path, "one")), rung("two", step(tmp_path, "two"), autonomy="approve")),
        limits=replace(LIMITS, backoff_max=0.02),
    )
    incident = world.fire(alert())
    world.triage.consider(incident)
    await until(lambda: world.told("approval"))
    (run,) = world.runs.unended()
    world.runner.answer(run.id, "anna", granted=False)
    await world.ended(run)
    await until(lambda: world.triage.consider(world.incident(incident)) or len(world.runs.of_incident(incident.id)) > 2)
    assert len(world.told("approval")) == 1
    assert "two" not in world.effects


async def test_what_was_not_asked_yet_is_asked_later(tmp_path: Path, make_world: MakeWorld) -> None:
    """A playbook that asks, and whose first run found nothing to do, asks when there is something."""
    world = make_world(
        playbook(rung("one", step(tmp_path, "one"), when="needed"), autonomy="approve"),
        limits=replace(LIMITS, backoff_max=0.02),
    )
    incident = world.fire(alert())
    await consider(world)
    assert world.incident(incident).state is IncidentState.ESCALATED
    world.make("needed")
    await until(lambda: world.triage.consider(world.incident(incident)) or world.told("approval"))


async def test_a_spent_budget_is_no_end_for_the_last_resort(tmp_path: Path, make_world: MakeWorld) -> None:
    """A ladder whose upper rungs the budget has no room for is exhausted: the last resort has its turn."""
    costly = playbook(rung("one", step(tmp_path, "one")), rung("two", step(tmp_path, "a"), step(tmp_path, "b")))
    resort = playbook(rung("all", step(tmp_path, "resort")), name="emergency", last_resort=True, budget={"1h": 9})
    world = make_world(costly, resort, limits=replace(LIMITS, budget=(Window(3600, 2),)))
    incident = world.fire(alert())
    await consider(world)
    assert [a.outcome for a in world.runs.of_incident(incident.id)[0].attempts] == ["failed", "spent"]
    await consider(world)
    assert world.effects == ["one", "resort"]


async def test_what_is_left_half_done_is_said(tmp_path: Path, make_world: MakeWorld) -> None:
    """A rung that a person cancels in its middle is not undone behind their back, and they are told what stands."""
    slow = {"kind": "command", "argv": ["sh", "-c", "sleep 0.2"], "timeout": "5s"}
    world = make_world(playbook(rung("one", step(tmp_path, "first"), slow, step(tmp_path, "third"))))
    incident = world.fire(alert())
    run = world.begin(incident)
    await until(lambda: "first" in world.effects)
    world.runner.cancel(run.id, "anna")
    await world.ended(run)
    assert "half done" in world.story(incident, "cancelled")[0]
    assert "third" not in world.effects
