"""An agent that is killed: `python healing_harness.py` reads lines `SCENARIO DIRECTORY MODE N` and answers each.

Each line forks a process that lives one agent's life over DIRECTORY until nothing is left to do, or until it is killed
by its own hand: MODE `before` or `after` its N-th commit (0: never). The answer is the exit status.
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
from watchdog.playbooks.schema import Playbook
from watchdog.store.database import Database

LIFE_SECONDS = 30


def heals(directory: Path) -> Playbook:
    """Two rungs, the second of two steps; each effect can be recognised."""

    def checked(name: str, truth: str = "") -> dict[str, Any]:
        return step(directory, name, truth, check=check(directory, name))

    return playbook(rung("one", checked("one")), rung("two", checked("two-a"), checked("two-b", "well")))


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


KILLING = """#!/bin/sh
# killing.sh NAME TRUTH WHEN: kills its parent before, after, or instead of its effect, the first time only.
cd "${0%/*}" || exit 9
if [ ! -e killed ]; then
  : > killed
  if [ "$3" != after ]; then kill -9 "$PPID"; fi
  if [ "$3" = instead ]; then exit; fi
  echo "$1" >> effects; : > "truths/$2"
  if [ "$3" = after ]; then kill -9 "$PPID"; fi
  : > outlived
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
    "before": lambda directory: killed_by_its_step(directory, "before"),
    "after": lambda directory: killed_by_its_step(directory, "after"),
    "instead": lambda directory: killed_by_its_step(directory, "instead"),
}


def dying(mode: str, at: int) -> type[Database]:
    """A database whose process ends just before or just after its `at`-th commit."""

    class Dying(Database):
        commits = 0

        def _commit(self) -> None:
            self.commits += 1
            if mode == "before" and self.commits == at:
                os.kill(os.getpid(), signal.SIGKILL)
            super()._commit()
            if mode == "after" and self.commits == at:
                os.kill(os.getpid(), signal.SIGKILL)

    return Dying


async def live(scenario: str, directory: Path, mode: str, at: int) -> None:
    """As the daemon does: incidents agree with alerts, what was left goes on, what is open is considered."""
    world = World(directory, SCENARIOS[scenario](directory), database=dying(mode, at))
    down = alert()
    world.firing = {} if world.holds("well") else {down.fingerprint: down}
    world.desk.sync(world.firing.values())
    await world.runner.resume()
    async with asyncio.timeout(LIFE_SECONDS):
        while not over(world):
            if world.holds("well") and world.firing:
                world.firing = {}
            world.desk.sync(world.firing.values())
            for incident in world.desk.unresolved:
                world.triage.consider(incident)
            world.bell.ring()
            await asyncio.sleep(0.004)
    await world.close()


def over(world: World) -> bool:
    """Nothing is under way, and nothing that could begin is left: resolved, escalated, or kept at bay."""
    known: Any = world.desk.incidents.latest()
    resting = {IncidentState.RESOLVED, IncidentState.ESCALATED, IncidentState.VERIFYING}
    return bool(known) and all(i.state in resting and world.runner.run_of(i.id) is None for i in known)


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
    for request in sys.stdin:
        print(answer(request), flush=True)
