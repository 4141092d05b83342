"""Runs of playbooks against a world of files: what is tried, in which order, what is refused, what is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from healing_world import LIMITS, QUICK, World, alert, check, playbook, rung, step, until

from watchdog.core.ladder import RungOutcome
from watchdog.core.model import IncidentState, labels_of
from watchdog.core.permission import Pause, Reason, Window
from watchdog.errors import ActionError, StoreError
from watchdog.playbooks.schema import Playbook
from watchdog.store.database import Database
from watchdog.store.runs import Run

MakeWorld = Callable[..., World]
NOTHING = replace(LIMITS, budget=(Window(3600, 0),))


def outcomes(run: Run) -> list[str]:
    return [f"{a.rung} {a.outcome}" for a in run.attempts]


def one(directory: Path, truth: str = "well", **more: Any) -> Playbook:
    return playbook(rung("one", step(directory, "one", truth)), **more)


async def test_the_ladder_climbs_in_order_until_it_helps(tmp_path: Path, make_world: MakeWorld) -> None:
    """Rungs are tried gentlest first, as often as they may, only until one verifies; the incident then closes, and it
    is told once that it was healed."""
    world = make_world(
        playbook(
            rung("one", step(tmp_path, "one")),
            rung("two", step(tmp_path, "two"), attempts=2),
            rung("three", step(tmp_path, "three-a"), step(tmp_path, "three-b", "well")),
            rung("four", step(tmp_path, "four")),
        )
    )
    incident = world.fire(alert())
    run = await world.heal(incident)
    assert world.effects == ["one", "two", "two", "three-a", "three-b"]
    assert outcomes(run) == ["one failed", "two failed", "two failed", "three verified"]
    assert run.state == "verified"
    after = world.incident(incident)
    assert (after.state, after.healed, after.acted_at is not None) == (IncidentState.RESOLVED, True, True)
    assert world.told() == [("healed", "healed")]
    assert world.guards.acting == {}


async def test_when_skips_what_does_not_apply(tmp_path: Path, make_world: MakeWorld) -> None:
    """A rung whose `when` gives nothing is skipped without an effect; one whose `when` holds is tried."""
    world = make_world(
        playbook(
            rung("one", step(tmp_path, "one"), when="never"),
            rung("two", step(tmp_path, "two", "well"), when="always"),
        )
    )
    world.make("always")
    run = await world.heal(world.fire(alert()))
    assert outcomes(run) == ["one skipped", "two verified"]
    assert world.effects == ["two"]


@pytest.mark.parametrize("more", [{"argv": ["false"]}, {"argv": ["sleep", "60"], "timeout": "50ms"}, {"argv": ["/no"]}])
@pytest.mark.parametrize("on_failure", ["next_rung", "stop"])
async def test_a_step_that_fails(tmp_path: Path, make_world: MakeWorld, more: object, on_failure: str) -> None:
    """After a step that fails, hangs or cannot be started, the rest of its rung is left out; `stop` ends the ladder."""
    assert isinstance(more, dict)
    bad = {"kind": "command", "timeout": "10s", "on_failure": on_failure, **more}
    world = make_world(
        playbook(rung("bad", bad, step(tmp_path, "after")), rung("next", step(tmp_path, "next", "well")))
    )
    incident = world.fire(alert())
    run = await world.heal(incident)
    if on_failure == "stop":
        assert outcomes(run) == ["bad stopped"]
        assert world.effects == []
        assert world.incident(incident).state is IncidentState.ESCALATED
        assert [kind for kind, _ in world.told()] == ["escalated"]
    else:
        assert outcomes(run) == ["bad failed", "next verified"]
        assert world.effects == ["next"]


async def test_a_rung_without_steps_only_waits(tmp_path: Path, make_world: MakeWorld) -> None:
    """Somebody else may repair: a rung without steps watches, acts on nothing, and needs nobody's permission."""
    world = make_world(playbook({"rung": "wait", "verify": {"hold": "20ms", "within": "10s"}}), limits=NOTHING)
    incident = world.fire(alert())
    run = world.begin(incident)
    await until(lambda: world.story(incident, "run"))
    world.clear()
    assert (await world.ended(run)).state == "verified"
    assert world.incident(incident).state is IncidentState.RESOLVED
    assert world.effects == []


async def test_what_is_well_before_the_act_is_left_alone(tmp_path: Path, make_world: MakeWorld) -> None:
    """If nothing fires any more when the rung's turn comes, and that holds, nothing is done."""
    world = make_world(one(tmp_path))
    incident = world.fire(alert())
    run = world.begin(incident)
    world.clear()
    assert outcomes(await world.ended(run)) == ["one verified"]
    assert world.effects == []


async def test_a_flicker_of_health_does_not_skip_the_gentle_rung(tmp_path: Path, make_world: MakeWorld) -> None:
    """Health that does not hold is no failure of a rung that has not acted: the rung acts then."""
    verify = {"expr": "served", "hold": "200ms", "within": "400ms"}
    world = make_world(
        playbook(
            rung("one", step(tmp_path, "one", "served"), verify=verify),
            rung("two", step(tmp_path, "two"), verify=verify),
            mitigates=True,
        )
    )
    world.make("served")
    run = world.begin(world.fire(alert()))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.05, world.unmake, "served")
    assert outcomes(await world.ended(run)) == ["one verified"]
    assert world.effects == ["one"]


async def test_a_refused_rung_waits_and_goes_on(tmp_path: Path, make_world: MakeWorld) -> None:
    """While paused nothing happens; when the pause ends by itself the rung acts, and the refusal was told once."""
    world = make_world(one(tmp_path))
    ends = world.clock.now() + 0.4
    world.facts.pause(Pause("care", "ann", world.clock.now(), until=ends), world.clock.now())
    incident = world.fire(alert())
    run = await world.heal(incident)
    assert run.state == "verified"
    (effect,) = world.runs.effects_of(run.id)
    assert effect.intended_at >= ends
    (refusal,) = world.story(incident, "refused")
    assert "paused by ann: care" in refusal
    assert world.runner.clearance.waiting(run.id) is None


async def test_a_lifted_pause_wakes_the_waiting_run(tmp_path: Path, make_world: MakeWorld) -> None:
    """A pause without an end is waited for; `explain` can see why; lifting it lets the run go on at once."""
    world = make_world(one(tmp_path))
    world.facts.pause(Pause("care", "ann", world.clock.now()), world.clock.now())
    incident = world.fire(alert())
    run = world.begin(incident)
    await until(lambda: world.runner.clearance.waiting(run.id))
    decision = world.runner.clearance.waiting(run.id)
    assert decision is not None
    assert [d.reason for d in decision.denials] == [Reason.PAUSED]
    assert world.runner.run_of(incident.id) == run.id
    assert world.effects == []
    world.facts.resume()
    world.bell.ring()
    await until(lambda: world.effects == ["one"], 2.0)
    world.clear()
    assert (await world.ended(run)).state == "verified"


async def test_what_gets_well_while_waiting_is_not_repaired(tmp_path: Path, make_world: MakeWorld) -> None:
    """A run that waits for a guard and sees its target well again ends without acting, even if it may act later."""
    world = make_world(one(tmp_path))
    world.facts.pause(Pause("care", "ann", world.clock.now()), world.clock.now())
    incident = world.fire(alert())
    run = world.begin(incident)
    await until(lambda: world.runner.clearance.waiting(run.id))
    world.clear()
    world.facts.resume()
    world.bell.ring()
    assert (await world.ended(run)).state == "verified"
    assert world.effects == []


async def test_a_refused_run_ends_when_nothing_fires_any_more(tmp_path: Path, make_world: MakeWorld) -> None:
    """A service that a person stopped: its part's run is refused, its alerts end, and nobody is told of anything."""
    ladder = {**rung("one", step(tmp_path, "one")), "verify": {**QUICK, "expr": "serving"}}
    world = make_world(playbook(ladder), stopped=frozenset({"web"}))
    incident = world.fire(alert())
    run = world.begin(incident)
    await until(lambda: world.runner.clearance.waiting(run.id))
    world.clear()
    assert (await world.ended(run)).state == "cancelled"
    assert world.incident(incident).state is IncidentState.RESOLVED
    assert world.effects == []
    assert [kind for kind, _ in world.told()] == ["resolved"]


async def test_a_lesser_trouble_beside_one_that_is_kept_at_bay_is_not_told(
    tmp_path: Path, make_world: MakeWorld
) -> None:
    """A warning that joins a critical incident whose playbook keeps users served wakes nobody; a critical one does."""
    keeps = playbook({"rung": "look", "verify": {**QUICK, "expr": "served"}}, mitigates=True)
    world = make_world(keeps)
    world.make("served")
    incident = world.fire(alert())
    await world.ended(world.begin(incident))
    world.fire(
        replace(
            alert(name="CircuitOpen"),
            labels=labels_of(alertname="CircuitOpen", severity="warning", target="service:web"),
        )
    )
    world.triage.consider(world.incident(incident))
    assert world.told() == []
    world.fire(alert(name="Worse"))
    world.triage.consider(world.incident(incident))
    assert [kind for kind, _ in world.told()] == ["opened"]


async def test_a_final_refusal_escalates_with_its_reason(tmp_path: Path, make_world: MakeWorld) -> None:
    """A spent budget is not waited for: the run is refused, nothing is done, and a person is told why."""
    world = make_world(one(tmp_path), limits=NOTHING)
    incident = world.fire(alert())
    run = await world.ended(world.begin(incident))
    assert (run.state, outcomes(run)) == ("exhausted", ["one spent"])
    assert world.effects == []
    ((kind, reason),) = world.told()
    assert kind == "escalated"
    assert "budget of restore on service:web is spent" in reason
    after = world.incident(incident)
    assert (after.state, after.reason) == (IncidentState.ESCALATED, reason)


async def test_waiting_has_an_end(tmp_path: Path, make_world: MakeWorld) -> None:
    """A refusal without an end is waited out no longer than `wait_at_most`; the reason says how long and for what."""
    world = make_world(one(tmp_path, wait_at_most="100ms"), stopped=frozenset({"web"}))
    run = await world.ended(world.begin(world.fire(alert())))
    assert run.state == "refused"
    ((kind, reason),) = world.told()
    assert kind == "escalated"
    assert reason.startswith("waited ")
    assert "web was stopped by a person" in reason


async def test_an_exhausted_ladder_is_told_once_an_incident(tmp_path: Path, make_world: MakeWorld) -> None:
    """When nothing helps a person is told, once; a second run that also fails says nothing more, and when it is over
    that is told too."""
    world = make_world(one(tmp_path, truth=""))
    incident = world.fire(alert())
    for _ in range(2):
        run = await world.heal(world.incident(incident))
        assert run.state == "exhausted"
        assert world.incident(incident).state is IncidentState.ESCALATED
    ((kind, reason),) = world.told()
    assert kind == "escalated"
    assert "the ladder is exhausted: one did not help" in reason
    assert "still fire" in reason
    world.clear()
    assert [kind for kind, _ in world.told()] == ["escalated", "resolved"]


async def test_a_backoff_keeps_its_distance_between_rungs(tmp_path: Path, make_world: MakeWorld) -> None:
    """Two disruptive effects on one target are apart by the backoff; a gentle one in between waits for nobody."""
    limits = replace(LIMITS, backoff_initial=0.3)
    gentle = step(tmp_path, "gentle", disruptive=False)
    world = make_world(
        playbook(
            rung("one", step(tmp_path, "one")), rung("two", gentle), rung("three", step(tmp_path, "three", "well"))
        ),
        limits=limits,
    )
    run = await world.heal(world.fire(alert()))
    first, between, last = (e.intended_at for e in world.runs.effects_of(run.id))
    assert between < first + 0.3 <= last


async def test_a_person_skips_budgets_but_neither_pause_nor_locks(tmp_path: Path, make_world: MakeWorld) -> None:
    """A person's run is not held up by spent budgets or boot grace, but waits while paused or while another acts."""
    world = make_world(one(tmp_path), limits=replace(NOTHING, boot_grace=1000.0))
    now = world.clock.now()
    world.facts.pause(Pause("care", "ann", now), now)
    run = world.begin(None, target="service:web", trigger="person")
    await until(lambda: world.runner.clearance.waiting(run.id))
    world.guards.lock(replace(run, id=99))
    world.facts.resume()
    world.bell.ring()
    await until(
        lambda: (d := world.runner.clearance.waiting(run.id)) and [x.reason for x in d.denials] == [Reason.BUSY]
    )
    assert world.effects == []
    world.guards.unlock(replace(run, id=99))
    world.bell.ring()
    assert (await world.ended(run)).state == "verified"
    assert world.effects == ["one"]
    assert world.told() == []


SLOW = """#!/bin/sh
cd "${0%/*}" || exit 9
echo "$1-begins" >> effects
until [ -e truths/go ]; do read -t 0.01 _ < /dev/null; done 2> /dev/null
echo "$1-ends" >> effects
: > "truths/well"
"""


@pytest.mark.parametrize(
    ("first", "second"),
    [("service:web", "worker:web/0"), ("worker:web/0", "service:web"), ("service:web", "service:web")],
)
async def test_one_at_a_time(tmp_path: Path, make_world: MakeWorld, first: str, second: str) -> None:
    """While a run acts on the whole no other acts on its part, nor the other way round, nor on the same; it waits."""
    (tmp_path / "slow.sh").write_text(SLOW)
    slow = {"kind": "command", "argv": ["sh", str(tmp_path / "slow.sh"), "slow"], "timeout": "20s"}
    world = make_world(playbook(rung("one", slow)), one(tmp_path, name="other"))
    holder = world.begin(None, target=first, trigger="person")
    await until(lambda: world.effects == ["slow-begins"])
    waiter = world.begin(None, "other", target=second, trigger="person")
    await until(lambda: world.runner.clearance.waiting(waiter.id))
    assert dict(world.guards.acting) == {first: holder.id}
    world.make("go")
    await world.ended(holder)
    await world.ended(waiter)
    assert world.effects == ["slow-begins", "slow-ends", "one"]
    assert world.guards.acting == {}


async def test_a_run_that_only_waits_takes_nobodys_lock(tmp_path: Path, make_world: MakeWorld) -> None:
    """A rung without steps does not take over the target from a run that acts on it."""
    (tmp_path / "slow.sh").write_text(SLOW)
    slow = {"kind": "command", "argv": ["sh", str(tmp_path / "slow.sh"), "slow"], "timeout": "20s"}
    waits = playbook({"rung": "wait", "verify": {"expr": "calm", **QUICK}}, name="waits", mitigates=True)
    world = make_world(playbook(rung("one", slow)), waits)
    holder = world.begin(None, target="service:web", trigger="person")
    await until(lambda: world.effects == ["slow-begins"])
    await world.ended(world.begin(None, "waits", target="service:web", trigger="person"))
    assert dict(world.guards.acting) == {"service:web": holder.id}
    world.make("go")
    await world.ended(holder)


async def test_an_incident_has_one_run(tmp_path: Path, make_world: MakeWorld) -> None:
    """A second run for an incident that has one is refused, and leaves no trace."""
    world = make_world(one(tmp_path))
    incident = world.fire(alert())
    run = world.begin(incident)
    with pytest.raises(ActionError, match=f"run {run.id} is already under way"):
        world.begin(world.incident(incident), trigger="person")
    assert [r.id for r in world.runs.unended()] == [run.id]
    world.clear()
    await world.ended(run)


async def test_mitigation_keeps_watching_and_pages_once(tmp_path: Path, make_world: MakeWorld) -> None:
    """When users are served although the alert goes on, the incident stays under watch; all that only a person can do
    is told in one page; when the cause ends it closes as healed."""
    world = make_world(
        playbook(
            rung("one", step(tmp_path, "one", "served"), verify={"expr": "served", **QUICK}),
            mitigates=True,
            needs_person=[
                {"when": "key_dead", "text": "A new key is needed."},
                {"when": "quota_spent", "text": "More quota is needed."},
                {"when": "never", "text": "Never."},
            ],
        )
    )
    world.make("key_dead")
    world.make("quota_spent")
    incident = world.fire(alert("provider:openai"))
    run = await world.ended(world.begin(incident))
    assert run.state == "mitigated"
    after = world.incident(incident)
    assert (after.state, after.healed) == (IncidentState.VERIFYING, True)
    assert world.told() == [("escalated", "A new key is needed. More quota is needed.")]
    world.clear()
    assert [kind for kind, _ in world.told()] == ["escalated", "healed"]


async def test_a_remote_fault_disturbs_nothing_local(tmp_path: Path, make_world: MakeWorld) -> None:
    """A disruptive step for a provider is refused as soon as it would disturb a service of this host."""
    world = make_world(one(tmp_path, wait_at_most="50ms"))
    run = await world.ended(world.begin(world.fire(alert("provider:openai", service="web"))))
    assert run.state == "refused"
    assert world.effects == []
    assert "the fault is remote" in world.told()[0][1]


async def test_symptoms_of_a_remote_fault_disturb_nothing_local(tmp_path: Path, make_world: MakeWorld) -> None:
    """While a provider is in trouble, an alert that only shows a symptom restarts nothing."""
    world = make_world(one(tmp_path, wait_at_most="50ms"))
    world.fire(alert("provider:openai"))
    incident = world.fire(alert("service:web", symptom="true"))
    assert (await world.ended(world.begin(incident))).state == "refused"
    assert world.effects == []


async def test_budgets_longer_than_a_day_are_kept(tmp_path: Path, make_world: MakeWorld) -> None:
    """An effect of two days ago counts in a playbook's budget for a week."""
    world = make_world(one(tmp_path, budget={"7d": 1}))
    past = world.runs.begin(
        incident_id=None, playbook="restore", target="service:web", trigger="person", labels={}, now=1.0
    )
    world.runs.intend(
        past,
        rung="one",
        attempt=1,
        step=0,
        action="command",
        arguments={},
        survey={},
        disruptive=True,
        now=world.clock.now() - 2 * 86400,
    )
    world.runs.end(past, "verified", 2.0)
    run = await world.ended(world.begin(world.fire(alert())))
    assert (run.state, world.effects) == ("exhausted", [])


async def test_settling_in_needs_no_further_measurement(tmp_path: Path, make_world: MakeWorld) -> None:
    """A verification whose `within` is just `settle` and `hold` succeeds without anybody ringing the bell."""
    verify = {"settle": "60ms", "hold": "40ms", "within": "150ms"}
    world = make_world(playbook(rung("one", step(tmp_path, "one"), verify=verify)))
    run = await world.ended(world.begin(None, target="service:web", trigger="person"))
    assert outcomes(run) == ["one verified"]


async def test_a_bug_in_a_run_reaches_a_person(tmp_path: Path, make_world: MakeWorld) -> None:
    """A run that breaks by a fault of ours ends, unlocks its target, and escalates."""
    world = make_world(one(tmp_path))
    incident = world.fire(alert())
    world.database.execute("UPDATE facts SET body = 'x' WHERE name = 'pauses'")
    world.database.execute("INSERT INTO facts VALUES ('pauses', 'no JSON')")
    run = await world.ended(world.begin(incident))
    assert run.state == "exhausted"
    assert world.incident(incident).state is IncidentState.ESCALATED
    assert "proxywatch itself failed" in world.told()[0][1]
    assert world.guards.acting == {}


class Refusing(Database):
    """Its writes fail while `refuses`, as on a full disk."""

    refuses = False

    def _commit(self) -> None:
        if self.refuses:
            raise StoreError("the disk is full")
        super()._commit()


async def test_memory_goes_back_with_the_store(tmp_path: Path, make_world: MakeWorld) -> None:
    """An incident that could not be written does not exist in memory either: it opens when the store is back."""
    world = make_world(one(tmp_path), database=Refusing)
    assert isinstance(world.database, Refusing)
    world.database.refuses = True
    with pytest.raises(StoreError):
        world.fire(alert())
    assert world.desk.unresolved == []
    world.database.refuses = False
    incident = world.fire(alert())
    world.database.refuses = True
    with pytest.raises(StoreError):
        world.begin(incident)
    assert world.runner.run_of(incident.id) is None
    assert world.desk.unresolved == [world.incident(incident)]
    world.database.refuses = False
    assert (await world.heal(incident)).state == "verified"


async def test_a_run_outlives_a_store_that_fails_for_a_while(
    tmp_path: Path, make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """When the store fails in the middle the run acts no more, and goes on when it is back: the effect that could not
    be recorded is recognised, not repeated."""
    (tmp_path / "slow.sh").write_text(SLOW)
    slow = {"kind": "command", "argv": ["sh", str(tmp_path / "slow.sh"), "slow"], "check": check(tmp_path, "slow-ends")}
    world = make_world(playbook(rung("one", slow), rung("two", step(tmp_path, "two"))), database=Refusing)
    assert isinstance(world.database, Refusing)
    incident = world.fire(alert())
    run = world.begin(incident)
    await until(lambda: world.effects == ["slow-begins"])
    world.database.refuses = True
    world.make("go")
    await until(lambda: "stands still" in caplog.text)
    assert world.runner.run_of(incident.id) == run.id
    world.database.refuses = False
    world.clear()
    run = await world.ended(run)
    assert (run.state, world.effects) == ("verified", ["slow-begins", "slow-ends"])
    assert [a.outcome for a in run.attempts] == [RungOutcome.VERIFIED]
    assert world.incident(incident).state is IncidentState.RESOLVED


async def test_a_stop_in_the_middle_is_gone_on_with(tmp_path: Path, make_world: MakeWorld) -> None:
    """Stopped in good order while it verifies, with the alert gone already: the incident stays open and busy, and the
    agent that follows finishes the run without a second effect."""
    book = playbook(rung("one", step(tmp_path, "one"), verify={"hold": "300ms", "within": "5s"}))
    world = make_world(book)
    incident = world.fire(alert())
    run = world.begin(incident)
    await until(lambda: world.incident(incident).state is IncidentState.VERIFYING)
    world.clear()
    await world.runner.stop()
    assert world.incident(incident).state is IncidentState.VERIFYING
    again = make_world(book)
    again.desk.sync(())
    assert again.incident(incident).resolved_at is None
    await again.runner.resume()
    assert (await again.ended(run)).state == "verified"
    assert again.effects == ["one"]
    assert again.incident(incident).state is IncidentState.RESOLVED
    assert again.told() == [("healed", "healed")]


async def test_a_step_under_way_is_finished_at_a_stop_and_no_other_begun(tmp_path: Path, make_world: MakeWorld) -> None:
    """A stop in good order waits for the step that is being done, asks for the time, and records its result; the next
    step is the next agent's."""
    (tmp_path / "slow.sh").write_text(SLOW)
    slow = {"kind": "command", "argv": ["sh", str(tmp_path / "slow.sh"), "slow"]}
    book = playbook(rung("one", slow, step(tmp_path, "two", "well")))
    world = make_world(book)
    run = world.begin(world.fire(alert()))
    await until(lambda: world.effects == ["slow-begins"])
    asked: list[bool] = []

    def advanced() -> None:
        asked.append(True)
        world.make("go")

    await world.runner.stop(60, advanced)
    assert asked
    assert world.effects == ["slow-begins", "slow-ends"]
    assert [effect.outcome for effect in world.runs.effects_of(run.id)] == ["done"]
    again = make_world(book)
    await again.runner.resume(advanced)
    assert (await again.ended(run)).state == "verified"
    assert again.effects == ["slow-begins", "slow-ends", "two"]


async def test_a_step_that_takes_longer_is_cut_off_at_a_stop(tmp_path: Path, make_world: MakeWorld) -> None:
    """Beyond that patience the step is ended, and its result is looked up by the agent that follows, which asks for
    the time that looking takes."""
    (tmp_path / "slow.sh").write_text(SLOW)
    argv = ["sh", str(tmp_path / "slow.sh"), "slow"]
    book = playbook(rung("one", {"kind": "command", "argv": argv, "check": check(tmp_path, "slow-ends")}))
    world = make_world(book)
    run = world.begin(world.fire(alert()))
    await until(lambda: world.effects == ["slow-begins"])
    await world.runner.stop(0.1)
    assert [effect.outcome for effect in world.runs.effects_of(run.id)] == [None]
    world.make("go")
    again = make_world(book)
    asked: list[bool] = []
    await again.runner.resume(lambda: asked.append(True))
    assert asked
    assert next(effect.outcome for effect in again.runs.effects_of(run.id)) == "not_done"


async def test_a_playbook_that_is_gone_frees_its_incident(tmp_path: Path, make_world: MakeWorld) -> None:
    """A run whose playbook was removed while the agent was away is cancelled, and its incident can be taken up anew."""
    world = make_world(one(tmp_path), limits=replace(LIMITS, boot_grace=1000.0))
    incident = world.fire(alert())
    run = world.begin(incident)
    await until(lambda: world.runner.clearance.waiting(run.id))
    await world.runner.stop()
    again = make_world(one(tmp_path, name="another"))
    await again.runner.resume()
    cancelled = again.runs.get(run.id)
    assert cancelled is not None
    assert cancelled.state == "cancelled"
    again.firing = world.firing
    again.desk.sync(again.firing.values())
    assert again.incident(incident).state is IncidentState.OPEN
    assert (await again.heal(again.incident(incident), "another")).state == "verified"


async def test_what_was_begun_holds_its_target_again(tmp_path: Path, make_world: MakeWorld) -> None:
    """After a restart a run that had acted holds its lock before any other run may ask, and a pause made meanwhile
    stops the rest of its rung."""
    book = playbook(rung("one", step(tmp_path, "a", check=["true"]), step(tmp_path, "b", "well", check=["false"])))
    world = make_world(book)
    run = world.runs.begin(
        incident_id=None, playbook="restore", target="service:web", trigger="person", labels={}, now=1.0
    )
    world.runs.intend(
        run,
        rung="one",
        attempt=1,
        step=0,
        action="command",
        arguments=book.ladder[0].steps[0].model_dump(mode="json"),
        survey={},
        disruptive=True,
        now=1.0,
    )
    world.facts.pause(Pause("care", "ann", world.clock.now()), world.clock.now())
    await world.runner.resume()
    assert dict(world.guards.acting) == {"service:web": run.id}
    await until(lambda: world.runner.clearance.waiting(run.id))
    assert world.effects == []
    world.facts.resume()
    world.bell.ring()
    assert (await world.ended(run)).state == "verified"
    assert world.effects == ["b"]
    assert world.guards.acting == {}


async def test_what_joins_a_known_incident_is_told_once(make_world: MakeWorld) -> None:
    """People who know of an incident are told when another alert joins it that nothing repairs, once an alert."""
    world = make_world()
    incident = world.fire(alert("host", "CpuHigh"))
    world.triage.consider(world.incident(incident))
    world.fire(alert("host", "DiskFull"))
    for _ in range(2):
        world.triage.consider(world.incident(incident))
    assert [kind for kind, _ in world.told()] == ["opened", "opened"]
    assert world.incident(incident).heard == ("CpuHigh", "DiskFull")


async def test_what_joins_an_escalated_incident_is_told(tmp_path: Path, make_world: MakeWorld) -> None:
    """An incident was given up and a person told; an alert without a playbook that joins it is told as well."""
    world = make_world(one(tmp_path, truth=""))
    incident = world.fire(alert())
    await world.heal(incident)
    world.fire(alert(name="OnFire"))
    for _ in range(2):
        world.triage.consider(world.incident(incident))
    assert [kind for kind, _ in world.told()] == ["escalated", "opened"]


async def test_a_need_that_arises_while_kept_at_bay_is_told(tmp_path: Path, make_world: MakeWorld) -> None:
    """The cause changes while users are served: what only a person can do is told then, once; and when users are
    served no more and the ladder is exhausted, that is told too."""
    verify = {"expr": "served", **QUICK}
    world = make_world(
        playbook(
            rung("one", step(tmp_path, "one"), verify=verify),
            mitigates=True,
            at_bay="served",
            needs_person=[{"when": "key_dead", "text": "A new key is needed."}],
        )
    )
    world.make("served")
    incident = world.fire(alert("provider:openai"))
    await world.ended(world.begin(incident))
    assert world.told() == []
    world.make("key_dead")
    for _ in range(2):
        world.triage.consider(world.incident(incident))
    assert world.told() == [("escalated", "A new key is needed.")]
    world.unmake("served")
    world.triage.consider(world.incident(incident))
    run = world.runner.run_of(incident.id)
    assert run is not None
    await world.runner.finished(run)
    assert world.incident(incident).state is IncidentState.ESCALATED
    assert [kind for kind, _ in world.told()] == ["escalated", "escalated"]


async def test_a_pause_stops_between_two_steps(tmp_path: Path, make_world: MakeWorld) -> None:
    """A pause that begins while a step is at work lets it end, and holds back the next step of the same rung."""
    (tmp_path / "slow.sh").write_text(SLOW)
    slow = {"kind": "command", "argv": ["sh", str(tmp_path / "slow.sh"), "slow"], "timeout": "20s"}
    world = make_world(playbook(rung("one", slow, step(tmp_path, "two"))))
    run = world.begin(None, target="service:web", trigger="person")
    await until(lambda: world.effects == ["slow-begins"])
    world.facts.pause(Pause("care", "ann", world.clock.now()), world.clock.now())
    world.make("go")
    await until(lambda: world.runner.clearance.waiting(run.id))
    assert world.effects == ["slow-begins", "slow-ends"]
    assert dict(world.guards.acting) == {"service:web": run.id}
    world.facts.resume()
    world.bell.ring()
    assert (await world.ended(run)).state == "verified"
    assert world.effects[-1] == "two"


async def test_what_one_run_was_allowed_is_no_room_for_another(tmp_path: Path, make_world: MakeWorld) -> None:
    """While a run is at the first of two effects, the host's budget counts both: another run cannot overdraw it."""
    (tmp_path / "slow.sh").write_text(SLOW)
    slow = {"kind": "command", "argv": ["sh", str(tmp_path / "slow.sh"), "slow"], "timeout": "20s"}
    limits = replace(LIMITS, host_budget=(Window(3600, 2),))
    world = make_world(playbook(rung("one", slow, step(tmp_path, "two"))), one(tmp_path, name="other"), limits=limits)
    first = world.begin(world.fire(alert("worker:web/0")))
    await until(lambda: world.effects == ["slow-begins"])
    second = await world.ended(world.begin(world.fire(alert("worker:web/1")), "other"))
    assert second.state == "exhausted"
    world.make("go")
    await world.ended(first)
    assert world.effects == ["slow-begins", "slow-ends", "two"]


async def test_a_full_disk_at_the_start_delays_a_run_and_loses_none(
    tmp_path: Path, make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """What was under way when the agent ended goes on although nothing can be written at its next start, as soon as
    that works again; a run whose playbook is gone leaves its incident free then."""
    world = make_world(one(tmp_path, truth=""), limits=replace(LIMITS, boot_grace=1000.0))
    incident = world.fire(alert())
    run = world.begin(incident)
    await until(lambda: world.runner.clearance.waiting(run.id))
    await world.runner.stop()
    again = make_world(one(tmp_path), database=Refusing)
    assert isinstance(again.database, Refusing)
    again.firing = world.firing
    again.database.refuses = True
    await again.runner.resume()
    await until(lambda: "stands still" in caplog.text)
    again.database.refuses = False
    again.clear()
    assert (await again.ended(run)).state == "verified"


async def test_a_run_that_cannot_be_cancelled_yet_leaves_its_incident_free(
    tmp_path: Path, make_world: MakeWorld
) -> None:
    """The playbook of a run is gone and the disk full: when it can be written the run is cancelled and another goes."""
    world = make_world(one(tmp_path), limits=replace(LIMITS, boot_grace=1000.0))
    incident = world.fire(alert())
    run = world.begin(incident)
    await until(lambda: world.runner.clearance.waiting(run.id))
    await world.runner.stop()
    again = make_world(one(tmp_path, name="another"), database=Refusing)
    assert isinstance(again.database, Refusing)
    again.firing = world.firing
    again.database.refuses = True
    await again.runner.resume()
    again.database.refuses = False
    again.triage.consider(again.incident(incident))
    cancelled = again.runs.get(run.id)
    assert cancelled is not None
    assert cancelled.state == "cancelled"
    assert (await again.heal(again.incident(incident), "another")).state == "verified"


async def test_an_unknown_placeholder_fails_before_the_effect(tmp_path: Path, make_world: MakeWorld) -> None:
    """A command that names a label which its target does not have is not run with the bare word; doubled braces are
    plain text."""
    odd = step(tmp_path, "{nowhere}")
    plain = {"kind": "command", "argv": ["sh", "-c", f"echo {{{{plain}}}} >> {tmp_path / 'effects'}"], "timeout": "5s"}
    world = make_world(playbook(rung("odd", odd), rung("plain", plain)))
    run = world.begin(None, target="service:web", trigger="person")
    assert outcomes(await world.ended(run)) == ["odd failed", "plain verified"]
    assert world.effects == ["{plain}"]


def test_a_mitigating_playbook_says_what_it_wants_to_reach(tmp_path: Path) -> None:
    """Its alert may go on, so without a `verify.expr` it would verify without having acted."""
    with pytest.raises(ValueError, match=r"rung 'one' needs a `verify\.expr`"):
        one(tmp_path, mitigates=True)


async def test_an_incident_of_weeks_keeps_the_evidence_of_its_ends(tmp_path: Path, make_world: MakeWorld) -> None:
    """Of many runs for one incident the first and the last few keep their evidence whole, so that it cannot fill the
    disk; of the others a line remains."""
    world = make_world(one(tmp_path, truth="", evidence=["pressure"]))
    incident = world.fire(alert())
    for _ in range(7):
        await world.ended(world.begin(world.incident(incident)))
    taken = [entry for entry in world.desk.incidents.story(incident.id) if entry.kind == "evidence"]
    assert ["text" in entry.data for entry in taken] == [True, False, False, True, True, True, True]
    assert all(entry.text.startswith("pressure: load") for entry in taken)


async def test_nothing_is_forgotten_that_a_budget_still_counts(tmp_path: Path, make_world: MakeWorld) -> None:
    """The guards look back as far as the longest window of any playbook, whatever the history is set to."""
    week = one(tmp_path, budget={"7d": 3})
    assert make_world(week).guards.reach([week, one(tmp_path, name="other")]) == 7 * 86400
