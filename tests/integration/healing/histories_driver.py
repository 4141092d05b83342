"""Drives one history: two bytes an event, an agent that is started again whenever it ended, a quiet time at last."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

from histories_agent import PLAYBOOKS, Agent
from histories_laws import Judge
from histories_machine import PROVIDER, TARGETS, WEB, Machine
from mortal import Killed

from watchdog.core.incidents import TRANSITIONS, Incident, IncidentEvent
from watchdog.core.model import IncidentState
from watchdog.core.permission import Pause
from watchdog.core.silences import Maintenance
from watchdog.core.targets import Target, parse_target
from watchdog.errors import ActionError, StoreError
from watchdog.schedule import Schedule
from watchdog.triggers import Triggers

QUIET_SECONDS = 400.0
RUN_SECONDS = 300.0
"""No run of these playbooks can take longer, whatever it waits for."""
PAUSES = (0.0, 0.3, 1.0, 3.0, 7.0, 12.0, 25.0, 60.0)


class Driver:
    """Of one machine and its agents, one after the other."""

    def __init__(self, history: bytes, directory: Path) -> None:
        self._history = history
        self.machine = Machine(history, directory)
        self.judge = Judge(self.machine)
        self.forgotten: list[str] = []
        self.deaths = 0
        self._agent: Agent | None = None

    def close(self) -> None:
        """Whatever happened."""
        self.machine.books.close()
        self.machine.fate.close()

    async def live(self, note: Callable[[str], None]) -> None:
        """The whole history, and what it is judged by in the end."""
        await self._start()
        for place in range(0, len(self._history) - 1, 2):
            what, much = self._history[place : place + 2]
            target = TARGETS[what % 8 % len(TARGETS)]
            note(f"{self.machine.time.uptime:.1f} s: {what // 8} {target} {much}")
            await self._happens(what // 8, target, much)
            await self._pass(PAUSES[much % 8])
        self.machine.calm = True
        self.machine.fate.commits_left = None
        await self._pass(QUIET_SECONDS)
        self._check_books()
        self.forgotten = [text for incident in self.agent.desk.unresolved for text in self._forgotten(incident)]
        self.forgotten += self._unknown()
        await self.agent.end()

    @property
    def agent(self) -> Agent:
        """The one that lives."""
        assert self._agent is not None
        return self._agent

    # --- lives ----------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        while True:
            try:
                self._agent = None
                self._agent = Agent(self.machine)
                self.judge.agent = self._agent
                await self._agent.start()
            except Killed:
                await self._bury()
            except StoreError:
                # systemd starts it again and again until the disk is well.
                self.machine.fate.close()
                await asyncio.sleep(1.0)
            else:
                return

    async def _pass(self, seconds: float) -> None:
        """So much time passes; an agent that dies in it is started again."""
        ends = self.machine.time.uptime + seconds
        while self.machine.time.uptime < ends:
            if self.agent.dead:
                await self._bury()
                await self._start()
            await asyncio.sleep(min(1.0 if self.machine.fate.commits_left is not None else seconds, seconds))
        if self.agent.dead:
            await self._bury()
            await self._start()

    async def _bury(self) -> None:
        self.deaths += 1
        if self._agent is not None:
            await self._agent.end()
            self._agent = None
        self.machine.fate.close()

    async def _restart(self, step: float) -> None:
        """Stopped in good order and started again, with the clock set in between."""
        self._check_books()
        await self.agent.end()
        machine, time = self.machine, self.machine.time
        before = time.offset + time.uptime
        # What has run out stays so, although the clock may be set back to before its end.
        machine.pauses = [(since, end) for since, end in machine.pauses if end is None or end > before]
        machine.maintenance = [window for window in machine.maintenance if window.until > before]
        time.offset = max(time.offset + step, 1000.0)
        now = time.offset + time.uptime
        if now < before:
            self.judge.went_back = True
            self.machine.ledger = [replace(act, at=min(act.at, now)) for act in self.machine.ledger]
        await self._start()

    # --- events ---------------------------------------------------------------------------------------------------

    async def _happens(self, what: int, target: Target, much: int) -> None:
        try:
            await self._event(what, target, much)
        except Killed:
            assert self.agent.dead
        except (StoreError, ActionError, KeyError):
            # What a person asked for was refused, or could not be written: nothing has changed.
            pass

    async def _event(self, what: int, target: Target, much: int) -> None:
        machine, agent = self.machine, self.agent
        now = agent.clock.now()
        match what:
            case 0 | 1 | 2 | 3 | 4 | 5:
                machine.fire(target, "Odd" if much > 240 else "Down")
            case 6:
                machine.fire(WEB, "Slow", symptom="true")
            case 7:
                machine.fire(PROVIDER, "Down")
                machine.truths.discard("served")
            case 8:
                machine.clear(target)
            case 9:
                end = None if much % 16 > 8 else now + 20
                agent.facts.pause(Pause("care", "ann", now, end), now)
                machine.pauses.append((now, end))
            case 10 | 11:
                # If it dies of this, nobody can say whether it is paused: then either is right.
                machine.pauses.clear()
                machine.switch.unlink(missing_ok=True)
                agent.facts.resume()
                agent.bell.ring()
            case 12 if much % 16 > 8:
                machine.switch.touch()
                machine.pauses.append((now, None))
            case 13:
                window = Maintenance(
                    f"m{machine.time.uptime}-{what}-{much}", (str(target),), now, now + much, "ann", ""
                )
                agent.facts.maintain(window, now)
                machine.maintenance.append(window)
            case 14 | 15 | 16:
                for run in agent.runs.unended():
                    if run.approval is not None and run.approval.granted is None and now < run.approval.until:
                        granted = much % 32 < 24
                        # Before: it may die of writing it down.
                        machine.granted |= {run.id} if granted else set()
                        agent.runner.answer(run.id, "ann", granted=granted)
            case 17 if much % 16 > 8:
                for run in agent.runs.unended()[:1]:
                    agent.runner.cancel(run.id, "bob")
            case 18:
                self._by_person(target, much)
            case 19:
                triggers = Triggers(
                    schedule=cast("Schedule", None), runner=agent.runner, desk=agent.desk, runs=agent.runs
                )
                triggers.fire(PLAYBOOKS["nightly"], "service:db", "schedule")
            case 20:
                machine.fate.full_until = machine.time.uptime + much / 8
            case 21 if much % 16 > 8:
                machine.fate.unreadable_until = machine.time.uptime + much / 8
            case 22 | 23 | 24:
                machine.fate.commits_left = 1 + much // 8
                machine.fate.before = what == 22
            case 25:
                await self._restart(0.0)
            case 26:
                await self._restart((much // 8 - 16) * 60.0)
            case 27:
                machine.truths ^= {"key_dead" if much % 16 > 8 else "served"}
                agent.bell.ring()
            case _:
                pass

    def _by_person(self, target: Target, much: int) -> None:
        """As `proxywatch playbook run`."""
        agent = self.agent
        names = [name for name, playbook in PLAYBOOKS.items() if target.kind in playbook.targets]
        incident = next((one for one in agent.desk.unresolved if one.key == str(target)), None)
        if incident is not None and (incident.state, IncidentEvent.RUN_STARTED) not in TRANSITIONS:
            return
        agent.runner.begin(incident, PLAYBOOKS[names[much // 8 % len(names)]], str(target), trigger="person")

    # --- the end --------------------------------------------------------------------------------------------------

    def _check_books(self) -> None:
        """What the agent knows is what the books say, so that whoever reads them knows as much."""
        agent = self.agent
        if agent.dead:
            return
        with contextlib.suppress(StoreError):
            written = {incident.id: incident for incident in agent.desk.incidents.unresolved()}
            known = {incident.id: incident for incident in agent.desk.unresolved}
            if written != known:
                self.judge.broken.append(f"the books say {written}, the agent knows {known}")

    def _forgotten(self, incident: Incident) -> list[str]:
        """Why an incident that is not over should have been."""
        agent = self.agent
        name = f"incident {incident.id} of {incident.key}, {incident.state}"
        run = agent.runner.run_of(incident.id)
        if run is not None:
            found = agent.runs.get(run)
            since = 0.0 if found is None else agent.clock.now() - found.started_at
            return [f"{name}: run {run} for {since:.0f} s"] if since > RUN_SECONDS else []
        if not incident.firing:
            return [f"{name}: nothing fires"]
        told = {kind for (key, kind) in self._told() if key.startswith(f"{incident.id}:") or str(incident.id) in key}
        match incident.state:
            case IncidentState.SUPPRESSED:
                cause = agent.desk.explained_by(incident, agent.guards.needs(_service(incident)))
                return [] if cause or agent.desk.repaired_above(incident) else [f"{name}: nothing explains it"]
            case IncidentState.VERIFYING if incident.healed and agent.holds("served"):
                return []
            case IncidentState.HEALING | IncidentState.VERIFYING:
                return [f"{name}: and no run"]
        unheard = [one.label["alertname"] for one in agent.desk.unheard(incident)]
        return [f"{name}: {unheard} unheard of, told {sorted(told)}"] if unheard else []

    def _unknown(self) -> list[str]:
        """Alerts of which no incident knows, runs that never end, locks that nobody holds."""
        agent = self.agent
        known = {print_ for incident in agent.desk.unresolved for print_ in incident.firing}
        found = [f"{one.label} is in no incident" for print_, one in agent.firing.items() if print_ not in known]
        unended = {run.id: run for run in agent.runs.unended()}
        alone = [run for run in unended.values() if run.incident_id is None]
        found += [f"run {r.id} never ends" for r in alone if agent.clock.now() - r.started_at > RUN_SECONDS]
        found += [
            f"{target} is locked by run {run}" for target, run in agent.guards.acting.items() if run not in unended
        ]
        found += [f"told: {why}" for why in self._faults()]
        return found

    def _told(self) -> list[tuple[str, str]]:
        return list(self.machine.books.execute("SELECT key, kind FROM told"))

    def _faults(self) -> list[str]:
        """Bugs of ours that a run told of."""
        rows = self.machine.books.execute("SELECT reason FROM told WHERE reason LIKE 'proxywatch itself failed%'")
        return [str(reason) for (reason,) in rows]


def _service(incident: Incident) -> str:
    return parse_target(incident.key).labels.get("service", "")
