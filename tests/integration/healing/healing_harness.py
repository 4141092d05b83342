"""An agent that is killed: `python healing_harness.py` reads lines `SCENARIO DIRECTORY MODE N` and answers each.

Each line forks a process that lives one agent's life over DIRECTORY until nothing is left to do, or until it is killed
by its own hand: MODE `before` its N-th commit, or `after` the N-th of those that leave an effect intended (0: never).
There is nothing between any other commit and the next, so these are all the worlds that a kill can leave. The answer
is the exit status.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from healing_world import QUICK, World, alert, check, playbook, rung, step

from watchdog.core.model import IncidentState
from watchdog.playbooks.schema import Playbook, playbook_model
from watchdog.store.database import Database

LIFE_SECONDS = 30


def checked(directory: Path, name: str, truth: str = "") -> dict[str, Any]:
    """A step that can be recognised."""
    return step(directory, name, truth, check=check(directory, name))


def heals(directory: Path) -> Playbook:
    """Two rungs, the second of two steps; each effect can be recognised."""

    return playbook(
        rung("one", checked(directory, "one")),
        rung("two", checked(directory, "two-a"), checked(directory, "two-b", "well")),
    )


def exhausts(directory: Path) -> Playbook:
    """Nothing helps, and nothing tells afterwards whether an effect happened."""
    return playbook(
        rung("one", step(directory, "one")),
        rung("two", step(directory, "two"), {"kind": "command", "argv": ["false"], "timeout": "5s"}),
    )


def mitigates(directory: Path) -> Playbook:
    """Users are served although the alert goes on, and a person is needed."""
    return playbook(
        rung(
            "one", step(directory, "one", "served", check=check(directory, "one")), verify={"expr": "served", **QUICK}
        ),
        mitigates=True,
        needs_person=[{"when": "served", "text": "A new key is needed."}],
    )


def asks(directory: Path) -> Playbook:
    """A person is asked before the one thing that helps."""
    return playbook(rung("one", checked(directory, "one", "well"), autonomy="approve"))


def long(directory: Path) -> Playbook:
    """Time enough between its rungs to cancel it."""
    return playbook(rung("one", checked(directory, "one")), rung("two", checked(directory, "two", "well")))


def turns_back(directory: Path) -> Playbook:
    """What did not help is undone before the next is tried."""
    return playbook(
        rung("one", checked(directory, "one"), roll_back=[checked(directory, "undo-a"), checked(directory, "undo-b")]),
        rung("two", checked(directory, "two", "well")),
    )


FLAKY = """#!/bin/sh
# flaky.sh: fails once without having done anything, and does it the next time.
cd "${0%/*}" || exit 9
if [ ! -e tried ]; then : > tried; exit 1; fi
echo one >> effects; : > truths/well
"""


def retries(directory: Path) -> Playbook:
    """Its step fails at first, and nothing has happened."""
    script = directory / "flaky.sh"
    script.write_text(FLAKY)
    more = {"timeout": "10s", "retries": 2, "retry_pause": "5ms", "check": check(directory, "one")}
    return playbook(rung("one", {"kind": "command", "argv": ["sh", str(script)], **more}))


def resorts(directory: Path) -> Playbook:
    """Nothing of its ladder helps."""
    return playbook(rung("one", checked(directory, "one")))


def last_resort(directory: Path) -> Playbook:
    """What is left then."""
    return playbook(rung("last", checked(directory, "last", "well")), name="resort", last_resort=True)


def by_time(directory: Path) -> Playbook:
    """Nobody's alert begins it."""
    trigger = {"kind": "schedule", "every": "1h", "targets": ["service:web"]}
    ladder = rung("one", checked(directory, "one"), checked(directory, "two", "well"), verify={"expr": "well", **QUICK})
    return playbook(ladder, answers=[], triggers=[trigger])


def repairs_each(directory: Path) -> Playbook:
    """Of two services one needs the other."""
    return playbook(rung("one", step(directory, "{service}", "{service}", check=check(directory, "{service}"))))


KILLING = """#!/bin/sh
# killing.sh NAME TRUTH WHEN: kills its parent before or after its effect, the first time only.
cd "${0%/*}" || exit 9
if [ ! -e killed ]; then
  : > killed
  if [ "$3" = before ]; then kill -9 "$PPID"; sleep 1; fi
  echo "$1" >> effects; : > "truths/$2"
  kill -9 "$PPID"
else
  echo "$1" >> effects; : > "truths/$2"
fi
"""


def killed_by_its_step(directory: Path, when: str) -> Playbook:
    """A step whose program kills the agent."""
    script = directory / "killing.sh"
    script.write_text(KILLING)
    argv = ["sh", str(script), "one", "well", when]
    killing = {"kind": "command", "argv": argv, "timeout": "5s", "check": check(directory, "one")}
    return playbook(rung("one", killing), rung("two", step(directory, "two")))


SCENARIOS: dict[str, Callable[[Path], Playbook]] = {
    "heals": heals,
    "exhausts": exhausts,
    "mitigates": mitigates,
    "granted": asks,
    "denied": asks,
    "cancelled": long,
    "back": turns_back,
    "retried": retries,
    "resorts": resorts,
    "by-time": by_time,
    "suppressed": repairs_each,
    "before": lambda directory: killed_by_its_step(directory, "before"),
    "after": lambda directory: killed_by_its_step(directory, "after"),
    "instead": lambda directory: killed_by_its_step(directory, "instead"),
}


def dying(mode: str, at: int) -> type[Database]:
    """A database whose process ends just before its `at`-th commit, or just after the `at`-th with an open intent."""

    class Dying(Database):
        commits = 0

        def _commit(self) -> None:
            if mode == "before":
                self.commits += 1
                if self.commits == at:
                    os.kill(os.getpid(), signal.SIGKILL)
            super()._commit()
            if mode == "after" and at and self.query("SELECT 1 FROM effects WHERE outcome IS NULL"):
                self.commits += 1
                if self.commits == at:
                    os.kill(os.getpid(), signal.SIGKILL)

    return Dying


async def live(scenario: str, directory: Path, mode: str, at: int) -> None:
    """As the daemon does: incidents agree with alerts, what was left goes on, what is open is considered."""
    playbooks = [SCENARIOS[scenario](directory), *([last_resort(directory)] if scenario == "resorts" else [])]
    world = World(directory, *playbooks, database=dying(mode, at))
    world.depends_on["web"] = ("service:db",)
    measure(world, scenario)
    world.desk.sync(world.firing.values())
    await world.runner.resume()
    async with asyncio.timeout(LIFE_SECONDS):
        while not over(world, scenario):
            measure(world, scenario)
            world.desk.sync(world.firing.values())
            for incident in world.desk.unresolved:
                world.triage.consider(incident)
            people(world, scenario)
            world.bell.ring()
            await asyncio.sleep(0.004)
    await world.close()


def measure(world: World, scenario: str) -> None:
    """What fires now."""
    match scenario:
        case "by-time":
            world.firing = {}
        case "suppressed":
            ill = [alert(f"service:{name}") for name in ("db", "web") if not world.holds(name)]
            world.firing = {one.fingerprint: one for one in ill}
        case _:
            down = alert()
            world.firing = {} if world.holds("well") else {down.fingerprint: down}


def people(world: World, scenario: str) -> None:
    """What somebody does who wants it, and sees whether it is done already."""
    runs = world.runs.unended()
    match scenario:
        case "granted" | "denied":
            for run in runs:
                if run.approval is not None and run.approval.granted is None:
                    world.runner.answer(run.id, "ann", granted=scenario == "granted")
        case "cancelled":
            for run in runs:
                if world.effects == ["one"] and run.id not in world.runner.clearance.cancelled:
                    world.runner.cancel(run.id, "ann")
        case "by-time" if world.runs.get(1) is None:
            world.begin(None, target="service:web", trigger="schedule")


def over(world: World, scenario: str) -> bool:
    """Nothing is under way, and nothing that could begin is left: resolved, escalated, kept at bay, left to people."""
    if scenario == "by-time":
        return world.runs.get(1) is not None and not world.runs.unended()
    known: Any = world.desk.incidents.latest()
    resting = {IncidentState.RESOLVED, IncidentState.ESCALATED, IncidentState.VERIFYING}
    if scenario == "resorts":
        resting -= {IncidentState.ESCALATED}
    return bool(known) and all(
        (i.state in resting or (i.hands_off and i.heard)) and world.runner.run_of(i.id) is None for i in known
    )


def answer(line: str) -> int:
    """One life in a process of its own; its exit status, negative for a signal."""
    scenario, name, mode, at = line.split()
    directory = Path(name)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            directory.mkdir(exist_ok=True)
            log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            asyncio.run(live(scenario, directory, mode, int(at)))
            status = 0
        except BaseException:  # noqa: BLE001 - whatever ended it belongs in its log
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    playbook_model()  # Once, and not in each life: it imports every action.
    for request in sys.stdin:
        print(answer(request), flush=True)
