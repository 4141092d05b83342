"""Where people come in: approval, cancellation, the kill switch, maintenance; and what explains an incident."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from healing_world import LIMITS, World, alert, playbook, rung, step, until

from watchdog.core.model import IncidentState, labels_of
from watchdog.core.observer import StormLimits
from watchdog.core.permission import Pause, Reason
from watchdog.core.silences import Maintenance
from watchdog.core.steadiness import Steadiness
from watchdog.playbooks.schema import Playbook
from watchdog.playbooks.surroundings import throw_kill_switch

MakeWorld = Callable[..., World]


def one(directory: Path, **more: Any) -> Playbook:
    return playbook(rung("one", step(directory, "one", "well")), **more)


async def waiting_for(world: World, run_id: int, reason: Reason) -> None:
    def refused() -> bool:
        decision = world.runner.clearance.waiting(run_id)
        return decision is not None and {d.reason for d in decision.denials} == {reason}

    await until(refused)


async def test_an_approved_run_acts_and_not_before(tmp_path: Path, make_world: MakeWorld) -> None:
    """A playbook that wants approval asks a person once, with what it would do and how to answer, and acts when the
    person said yes."""
    world = make_world(one(tmp_path, autonomy="approve"))
    incident = world.fire(alert())
    world.triage.consider(incident)
    run_id = world.runner.run_of(incident.id)
    assert run_id is not None
    await waiting_for(world, run_id, Reason.APPROVAL)
    world.bell.ring()
    await asyncio.sleep(0)
    ((kind, text),) = world.told()
    assert kind == "approval"
    assert f"run {run_id} of restore would, at rung one: " in text
    assert "effect.sh one" in text
    assert world.effects == []
    measuring = asyncio.create_task(world.measure())
    world.runner.answer(run_id, "ann", granted=True)
    await world.runner.finished(run_id)
    measuring.cancel()
    assert world.effects == ["one"]
    assert world.incident(incident).state is IncidentState.RESOLVED
    assert "ann approved run 1" in world.story(incident, "approval")


async def test_a_denied_run_does_nothing_and_escalates(tmp_path: Path, make_world: MakeWorld) -> None:
    """A person's no ends the run; the incident is theirs, with who said it."""
    world = make_world(one(tmp_path, autonomy="approve"))
    incident = world.fire(alert())
    run = world.begin(incident)
    await waiting_for(world, run.id, Reason.APPROVAL)
    world.runner.answer(run.id, "bob", granted=False)
    assert (await world.ended(run)).state == "refused"
    assert world.effects == []
    assert world.told()[-1] == ("escalated", "bob denied it")
    with pytest.raises(KeyError):
        world.runner.answer(run.id, "bob", granted=True)


async def test_an_unanswered_question_expires(tmp_path: Path, make_world: MakeWorld) -> None:
    """Nobody's answer in time counts as no."""
    world = make_world(one(tmp_path, autonomy="approve", approval_expires="150ms"))
    incident = world.fire(alert())
    run = await world.ended(world.begin(incident))
    assert run.state == "refused"
    assert world.effects == []
    assert world.told()[-1] == ("escalated", "nobody approved it in time")


async def test_one_rung_may_ask_although_the_playbook_acts(tmp_path: Path, make_world: MakeWorld) -> None:
    """The gentle rung acts by itself; the one that asks waits for a person."""
    world = make_world(
        playbook(rung("one", step(tmp_path, "one")), rung("two", step(tmp_path, "two", "well"), autonomy="approve"))
    )
    incident = world.fire(alert())
    run = world.begin(incident)
    await waiting_for(world, run.id, Reason.APPROVAL)
    assert world.effects == ["one"]
    measuring = asyncio.create_task(world.measure())
    world.runner.answer(run.id, "ann", granted=True)
    assert (await world.ended(run)).state == "verified"
    measuring.cancel()
    assert world.effects == ["one", "two"]


async def test_an_answer_survives_a_restart_of_the_agent(tmp_path: Path, make_world: MakeWorld) -> None:
    """What was asked is not asked again after a restart, and what was answered still holds."""
    ladder = one(tmp_path, autonomy="approve")
    world = make_world(ladder)
    incident = world.fire(alert())
    run = world.begin(incident)
    await waiting_for(world, run.id, Reason.APPROVAL)
    await world.close()
    again = make_world(ladder)
    again.firing = dict(world.firing)
    await again.runner.resume()
    await waiting_for(again, run.id, Reason.APPROVAL)
    assert [kind for kind, _ in again.told()] == ["approval"]
    measuring = asyncio.create_task(again.measure())
    again.runner.answer(run.id, "ann", granted=True)
    assert (await again.ended(run)).state == "verified"
    measuring.cancel()


async def test_a_dry_run_tells_what_it_would_do_and_does_nothing(tmp_path: Path, make_world: MakeWorld) -> None:
    """`dry_run` says once what its first rung would do, and holds."""
    world = make_world(one(tmp_path, autonomy="dry_run"))
    incident = world.fire(alert())
    world.triage.consider(incident)
    world.triage.consider(world.incident(incident))
    ((kind, why),) = world.told()
    assert kind == "opened"
    assert why.startswith("restore would, at rung one: ")
    assert world.effects == []


async def test_a_cancelled_run_stops_between_effects_and_is_left_to_people(
    tmp_path: Path, make_world: MakeWorld
) -> None:
    """What is being done is finished, nothing more is begun, and the agent does not begin anew by itself."""
    slow = {**step(tmp_path, "one"), "argv": ["sh", "-c", f"echo one >> {tmp_path}/effects; sleep 0.3"]}
    world = make_world(playbook(rung("one", slow, step(tmp_path, "two", "well"))))
    incident = world.fire(alert())
    run = world.begin(incident)
    await until(lambda: world.effects == ["one"])
    world.runner.cancel(run.id, "ann")
    assert (await world.ended(run)).state == "cancelled"
    assert world.effects == ["one"]
    world.triage.consider(world.incident(incident))
    assert world.runner.run_of(incident.id) is None
    assert world.told()[-1] == ("opened", "ann cancelled its repair")
    with pytest.raises(KeyError):
        world.runner.cancel(run.id, "ann")


@pytest.mark.parametrize("content", ["", "we are moving house", '{"reason": 7}'], ids=["empty", "text", "half-json"])
async def test_a_file_stops_everything(tmp_path: Path, make_world: MakeWorld, content: str) -> None:
    """While the kill switch's file exists nothing acts, whatever stands in it; without it the run goes on."""
    world = make_world(one(tmp_path))
    (tmp_path / "pause").write_text(content)
    incident = world.fire(alert())
    run = world.begin(incident)
    await waiting_for(world, run.id, Reason.PAUSED)
    assert world.effects == []
    (tmp_path / "pause").unlink()
    measuring = asyncio.create_task(world.measure())
    world.bell.ring()
    assert (await world.ended(run)).state == "verified"
    measuring.cancel()


def test_a_thrown_switch_says_who_and_until_when(tmp_path: Path, make_world: MakeWorld) -> None:
    """What the command line writes is read back as the pause that it is."""
    world = make_world(one(tmp_path))
    pause = Pause("moving", "ann", 5.0, 9.0)
    throw_kill_switch(tmp_path / "pause", pause)
    assert world.surroundings.pauses(6.0) == (pause,)


async def test_the_kill_switch_is_recorded_and_runs_out(tmp_path: Path, make_world: MakeWorld) -> None:
    """Nobody tells the agent of the file, so it says itself when it appears and when it no longer holds."""
    world = make_world(one(tmp_path))
    now = world.clock.now()
    throw_kill_switch(tmp_path / "pause", Pause("moving", "ann", now, now + 0.2))
    for _time in range(2):
        await world.surroundings.watch(LIMITS.storm)
    await until(lambda: world.surroundings.pauses(world.clock.now()) == ())
    await world.surroundings.watch(LIMITS.storm)
    told = [(line.kind, line.text) for line in world.desk.history.since(now)]
    assert told == [
        ("paused", "by the kill switch of ann: moving"),
        ("resumed", "the kill switch is no longer thrown"),
    ]


async def test_under_maintenance_nothing_acts(tmp_path: Path, make_world: MakeWorld) -> None:
    """A window over the target refuses, and its early end lets the run go on."""
    world = make_world(one(tmp_path))
    now = world.clock.now()
    world.facts.maintain(Maintenance("m1", ("service:web",), now - 1, now + 60, "ann", "kernel"), now)
    incident = world.fire(alert())
    run = world.begin(incident)
    await waiting_for(world, run.id, Reason.MAINTENANCE)
    assert world.facts.end_maintenance("m1", now)
    measuring = asyncio.create_task(world.measure())
    world.bell.ring()
    assert (await world.ended(run)).state == "verified"
    measuring.cancel()


async def test_what_a_service_needs_explains_its_trouble(tmp_path: Path, make_world: MakeWorld) -> None:
    """While something that the service depends on is in trouble its own incident is suppressed: nobody is told and
    nothing is done; when that is over, it is repaired."""
    world = make_world(one(tmp_path))
    world.depends_on["web"] = ("service:database",)
    base = world.fire(alert("service:database", "DatabaseDown"))
    incident = world.fire(alert())
    world.triage.consider(incident)
    suppressed = world.incident(incident)
    assert suppressed.state is IncidentState.SUPPRESSED
    assert f"service:database explains it (incident {base.id})" in suppressed.reason
    assert world.told() == []
    del world.firing[next(f for f, a in world.firing.items() if a.label["alertname"] == "DatabaseDown")]
    world.desk.sync(world.firing.values())
    world.triage.consider(world.incident(incident))
    run_id = world.runner.run_of(incident.id)
    assert run_id is not None
    measuring = asyncio.create_task(world.measure())
    await world.runner.finished(run_id)
    measuring.cancel()
    assert world.effects == ["one"]


async def test_symptoms_are_explained_by_a_remote_fault(tmp_path: Path, make_world: MakeWorld) -> None:
    """Errors that a provider's outage explains open no second front."""
    world = make_world(one(tmp_path))
    world.fire(alert("provider:openai", "ProviderDown"))
    errors = replace(
        alert(name="HighErrorRate"),
        labels=labels_of(alertname="HighErrorRate", severity="critical", target="service:web", symptom="true"),
    )
    incident = world.fire(errors)
    world.triage.consider(incident)
    assert world.incident(incident).state is IncidentState.SUPPRESSED
    assert world.told() == []


async def test_what_heals_again_and_again_goes_to_a_person(tmp_path: Path, make_world: MakeWorld) -> None:
    """The third healing without a long time of health in between is healed like the others, and told as chronic."""
    world = make_world(one(tmp_path), limits=replace(LIMITS, steadiness=Steadiness(chronic_count=3)))
    for _time in range(3):
        world.make("ill")
        (tmp_path / "truths" / "well").unlink(missing_ok=True)
        incident = world.fire(alert())
        assert (await world.heal(incident)).state == "verified"
    pages = world.told("escalated")
    assert len(pages) == 1
    assert pages[0][1].startswith("chronic: healed 3 times within ")
    assert world.effects == ["one", "one", "one"]


async def test_a_storm_makes_the_agent_look_at_itself_first(tmp_path: Path, make_world: MakeWorld) -> None:
    """When everything falls ill at once nothing is done before the look; an agent with a fault keeps its hands off,
    and one without repairs one thing after the other. It is told once in each story."""
    storm = StormLimits(least_targets=3, share=0.5, within=60, cooldown=60)
    world = make_world(one(tmp_path), limits=replace(LIMITS, storm=storm))
    world.faults = ("it cannot start a process",)
    names = ("service:web", "service:mail", "service:news")
    incident, *_rest = [world.fire(alert(name)) for name in names]
    run = world.begin(incident)
    await waiting_for(world, run.id, Reason.OBSERVER)
    await world.surroundings.watch(storm)
    await waiting_for(world, run.id, Reason.OBSERVER)
    (told,) = world.story(incident, "storm")
    assert told.startswith("suspect the observer: 3 of 3 targets (100 %) fell ill together")
    assert told.endswith("it cannot start a process")


async def test_in_a_storm_a_sound_agent_repairs_one_thing_after_the_other(
    tmp_path: Path, make_world: MakeWorld
) -> None:
    """With nothing wrong at home it goes on, but never with two repairs at once."""
    storm = StormLimits(least_targets=3, share=0.5, within=60, cooldown=60)
    slow = {**step(tmp_path, "slow"), "argv": ["sh", "-c", f"echo slow >> {tmp_path}/effects; sleep 0.3"]}
    world = make_world(playbook(rung("one", slow, step(tmp_path, "end", "well"))), limits=replace(LIMITS, storm=storm))
    first, second, _third = [world.fire(alert(name)) for name in ("service:web", "service:mail", "service:news")]
    await world.surroundings.watch(storm)
    before = world.begin(first)
    await until(lambda: world.effects == ["slow"])
    after = world.begin(second)
    await waiting_for(world, after.id, Reason.STORM)
    measuring = asyncio.create_task(world.measure())
    assert (await world.ended(before)).state == "verified"
    await world.ended(after)
    measuring.cancel()
    assert world.effects[:2] == ["slow", "end"]
