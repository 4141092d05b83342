"""Runs playbooks: evidence, rung by rung permission, effect and verification; goes on correctly after `kill -9`.

What a run has done is read back from the store at every step, so that going on after a crash is the same code as
going on without one: an attempt whose effects are recorded is not performed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from watchdog.actions import ActionContext
from watchdog.clock import Clock
from watchdog.core.incidents import Incident, IncidentEvent
from watchdog.core.ladder import Attempt, Exhausted, Finished, RungLimit, RungOutcome, Try, next_move
from watchdog.core.model import IncidentState
from watchdog.core.permission import Wish
from watchdog.core.targets import parse_target
from watchdog.errors import ActionError, StoreError
from watchdog.playbooks.attempts import Attempts
from watchdog.playbooks.bell import Bell
from watchdog.playbooks.clearance import CancelledError, Clearance, OverError
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.effects import Effects
from watchdog.playbooks.evidence import Evidence
from watchdog.playbooks.guards import Guards
from watchdog.playbooks.schema import Playbook, fill
from watchdog.playbooks.verification import Verifier
from watchdog.store.runs import Run, Runs

log = logging.getLogger("proxywatch.playbook")

STORE_AGAIN_SECONDS = 5.0
COLLECTING_AT_ONCE = 4
"""Runs that take evidence at the same time: in a storm all of them at once would be a load of its own."""


class Runner:
    """One task a run; at most one run an incident."""

    def __init__(
        self,
        *,
        desk: Desk,
        runs: Runs,
        guards: Guards,
        verifier: Verifier,
        evidence: Evidence,
        context: Callable[[str, Mapping[str, str]], ActionContext],
        clock: Clock,
        bell: Bell,
    ) -> None:
        """`context(target, labels)` gives an action what it may touch."""
        self._desk = desk
        self._runs = runs
        self.guards = guards
        self._verifier = verifier
        self._evidence = evidence
        self.context = context
        self._effects = Effects(desk, runs, context, clock)
        self._clock = clock
        self._bell = bell
        self.playbooks: Mapping[str, Playbook] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._collecting = asyncio.Semaphore(COLLECTING_AT_ONCE)
        # What a crash left under way keeps its incident busy from the first moment, long before `resume`.
        self._incidents: dict[int, Run] = {r.incident_id: r for r in runs.unended() if r.incident_id is not None}
        self.clearance = Clearance(
            desk=desk,
            runs=runs,
            guards=guards,
            verifier=verifier,
            effects=self._effects,
            context=context,
            bell=bell,
            clock=clock,
        )
        self._attempts = Attempts(desk=desk, effects=self._effects, clearance=self.clearance, verifier=verifier)
        desk.at_work = self._at_work

    def run_of(self, incident_id: int) -> int | None:
        """The run under way for an incident."""
        run = self._incidents.get(incident_id)
        return run.id if run is not None else None

    def _at_work(self, incident_id: int) -> str:
        run = self._incidents.get(incident_id)
        return run.playbook if run is not None else ""

    def busy(self, incident_id: int) -> bool:
        """Whether a run is under way for the incident; one that the store failed under goes on now."""
        if incident_id in self._incidents:
            return True
        run = self._runs.unended_of(incident_id)
        if run is None:
            return False
        self._go_on(run)
        return True

    def cancel(self, run_id: int, who: str) -> Run:
        """Ends a run by a person's will: what it is doing now is finished, nothing more is begun, and its incident is
        left to people. KeyError if no such run is under way."""
        run = self._runs.get(run_id)
        if run is None or run.ended_at is not None:
            raise KeyError(run_id)
        self.clearance.cancelled[run_id] = who
        with self._desk.transaction():
            run = self._runs.cancel(run, who)
            self._desk.tell(run.incident_id, "cancelling", f"{who} cancelled run {run_id}")
        self._bell.ring()
        return run

    def answer(self, run_id: int, who: str, *, granted: bool) -> Run:
        """A person's word on a run that waits for it. KeyError if none waits for one, or no longer."""
        run = self._runs.get(run_id)
        asked = run.approval if run is not None and run.ended_at is None else None
        if run is None or asked is None or asked.granted is not None or self._clock.now() >= asked.until:
            raise KeyError(run_id)
        with self._desk.transaction():
            run = self._runs.approve(run, replace(asked, granted=granted, by=who))
            self._desk.tell(run.incident_id, "approval", f"{who} {'approved' if granted else 'denied'} run {run_id}")
        self._bell.ring()
        return run

    def begin(self, incident: Incident | None, playbook: Playbook, target: str, trigger: str = "alert") -> Run:
        """Starts a run in a task of its own. Raises ActionError while another run is under way for the incident."""
        if incident is not None and incident.id in self._incidents:
            raise ActionError(f"run {self._incidents[incident.id].id} is already under way for incident {incident.id}")
        labels = dict(incident.labels) if incident else {}
        labels.update(parse_target(target).labels)
        incident_id = incident.id if incident else None
        with self._desk.transaction():
            run = self._runs.begin(
                incident_id=incident_id,
                playbook=playbook.name,
                target=target,
                trigger=trigger,
                labels=labels,
                now=self._clock.now(),
            )
            if incident_id is not None:
                self._desk.move(incident_id, IncidentEvent.RUN_STARTED)
            text = f"playbook {playbook.name} begins (run {run.id}, by {trigger})"
            self._desk.tell(incident_id, "run", text, {"playbook": playbook.name})
        if incident_id is not None:
            self._incidents[incident_id] = run
        self._spawn(run, playbook)
        return run

    async def resume(self, advanced: Callable[[], None] = lambda: None) -> None:
        """After a start: looks at the world for every effect that was left open, then lets each run go on. `advanced`
        is called before each look."""
        left = self._runs.unended()
        for run in left:
            try:
                await self._effects.reconcile(run, advanced)
            except StoreError as error:
                # A disk that is full at the start is no reason to end; `_drive` looks again.
                log.critical("run %s cannot be reconciled yet: %s", run.id, error)
        for run in left:
            try:
                self._go_on(run)
            except StoreError as error:
                log.critical("run %s goes on when the store is back: %s", run.id, error)
                if run.incident_id is not None:
                    self._incidents.pop(run.incident_id, None)

    def _go_on(self, run: Run) -> None:
        if run.cancelling:
            self.clearance.cancelled[run.id] = run.cancelling
        playbook = self.playbooks.get(run.playbook)
        if playbook is None:
            self._cancel(run, f"playbook {run.playbook} is no longer there")
            self._release(run)
            return
        if run.incident_id is not None:
            self._incidents[run.incident_id] = run
        # A rung that has acted holds its target again before any other run asks for it.
        rest = self._rest(run, playbook)
        if rest is not None:
            self.guards.lock(run, rest)
        self._spawn(run, playbook)
        # Only a line of the story: `_guarded` waits for a store that cannot be written, and says so.
        with contextlib.suppress(StoreError):
            self._desk.tell(run.incident_id, "resumed", f"run {run.id} goes on where it was left")

    def _rest(self, run: Run, playbook: Playbook) -> Wish | None:
        """What is left of a rung that was begun, for it was allowed and still counts; None if none was begun."""
        move = next_move([RungLimit(rung.rung, rung.attempts) for rung in playbook.ladder], run.attempts)
        if not isinstance(move, Try):
            return None
        rung = playbook.ladder[move.index]
        done = self._effects.done(run, rung, move.attempt)
        if not done:
            return None
        wish = self.clearance.wish(run, playbook, rung)
        spent = sum(e.disruptive == wish.disruptive for index, e in done.items() if index < len(rung.steps))
        return replace(wish, effects=max(0, wish.effects - spent))

    def _cancel(self, run: Run, why: str) -> None:
        with self._desk.transaction():
            self._desk.tell(run.incident_id, "cancelled", why)
            self._runs.end(run, "cancelled", self._clock.now())
            self._desk.advance(run.incident_id, IncidentEvent.RUN_ENDED)

    async def stop(self, finish_seconds: float = 0.0, advanced: Callable[[], None] = lambda: None) -> None:
        """Ends the tasks; the runs stay as they are in the store and go on at the next start. Steps that are being done
        get `finish_seconds` to end, and `advanced` is called meanwhile; none is begun any more."""
        await self._effects.end(finish_seconds, advanced)
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def finished(self, run_id: int) -> None:
        """Waits for a run's end."""
        task = self._tasks.get(run_id)
        if task is not None:
            await asyncio.wait([task])

    def _spawn(self, run: Run, playbook: Playbook) -> None:
        task = asyncio.create_task(self._guarded(run, playbook), name=f"run-{run.id}")
        self._tasks[run.id] = task
        task.add_done_callback(lambda _task: self._tasks.pop(run.id, None))

    async def _guarded(self, run: Run, playbook: Playbook) -> None:
        # A cancelled task (`stop`) releases nothing: the run stays unended in the store, so its incident stays busy.
        while True:
            try:
                await self._to_its_end(run, playbook)
            except StoreError as error:
                log.critical("run %s stands still until the store is back: %s", run.id, error)
                run = await self._when_remembered(run)
            else:
                break
        self._release(run)

    async def _to_its_end(self, run: Run, playbook: Playbook) -> None:
        """Whatever that is. Raises StoreError if it cannot be written: then the run has not ended."""
        try:
            await self._drive(run, playbook)
        except OverError:
            self._cancel(run, "what it answers no longer fires, and nothing had to be done")
        except CancelledError as error:
            self._give_up(run, str(error))
        except StoreError:
            raise
        except Exception:
            log.exception("run %s of %s failed by a bug of ours; a person is told", run.id, playbook.name)
            self._escalate(run, "exhausted", "proxywatch itself failed while running the playbook; see its log")

    async def _when_remembered(self, run: Run) -> Run:
        """Waits until the store works again and what was begun without a record is reconciled."""
        while True:
            await asyncio.sleep(STORE_AGAIN_SECONDS)
            try:
                await self._effects.reconcile(run)
                return self._runs.get(run.id) or run
            except StoreError:
                continue

    def _give_up(self, run: Run, who: str) -> None:
        with self._desk.transaction():
            if run.incident_id is not None:
                self._desk.leave_alone(run.incident_id, who)
            half = self._half_done(run)
            why = f"cancelled by {who}; its incident is left to people until it is over"
            self._cancel(run, f"{why}; {half}" if half else why)

    def _half_done(self, run: Run) -> str:
        run, playbook = self._runs.get(run.id) or run, self.playbooks.get(run.playbook)
        if playbook is None:
            return ""
        move = next_move([RungLimit(rung.rung, rung.attempts) for rung in playbook.ladder], run.attempts)
        return (
            self._effects.left_half_done(run, playbook.ladder[move.index], move.attempt)
            if isinstance(move, Try)
            else ""
        )

    def _release(self, run: Run) -> None:
        self.guards.unlock(run)
        self.clearance.forget(run.id)
        if run.incident_id is not None:
            if self.run_of(run.incident_id) == run.id:
                del self._incidents[run.incident_id]
            with contextlib.suppress(StoreError):
                self._desk.settle(run.incident_id)
        self._bell.ring()

    async def _drive(self, run: Run, playbook: Playbook) -> None:
        await self._bell.turns.mine()
        await self._effects.reconcile(run)
        async with self._collecting:
            await self._evidence.collect(run, playbook)
        limits = [RungLimit(rung.rung, rung.attempts) for rung in playbook.ladder]
        while True:
            move = next_move(limits, run.attempts)
            if isinstance(move, Finished):
                self._succeed(run, playbook, move.rung)
                return
            if isinstance(move, Exhausted):
                late = await self._well_after_all(run, playbook)
                if late is not None:
                    self._succeed(run, playbook, late)
                    return
                refused = run.attempts and run.attempts[-1].outcome is RungOutcome.REFUSED
                self._escalate(run, "refused" if refused else "exhausted", move.reason)
                return
            rung = playbook.ladder[move.index]
            outcome, note = await self._attempts.make(run, playbook, rung, move.attempt)
            with self._desk.transaction():
                run = self._runs.attempted(run, Attempt(rung.rung, outcome, note))
                self._desk.tell(
                    run.incident_id, f"rung_{outcome}", f"rung {rung.rung}: {outcome}" + (f": {note}" if note else "")
                )
                if outcome is RungOutcome.FAILED:
                    self._desk.advance(run.incident_id, IncidentEvent.RUNG_FAILED)
            # Only now: what cannot be written yet is verified once more, and nobody else may touch the target before.
            self.guards.unlock(run)

    async def _well_after_all(self, run: Run, playbook: Playbook) -> str | None:
        """The last look before a person is called: the rung whose health arrived only now, and held. None where it did
        not, where a step or a guard wanted a person, and where there is nothing by which to tell."""
        last = run.attempts[-1] if run.attempts else None
        if last is None or last.outcome not in (RungOutcome.FAILED, RungOutcome.SKIPPED):
            return None
        rung = next((rung for rung in playbook.ladder if rung.rung == last.rung), None)
        if rung is None or (run.incident_id is None and not rung.verify.expr):
            return None
        if not self._verifier.healthy(run, playbook, rung):
            return None
        well, seen = await self._verifier.verify(run, playbook, rung)
        self._desk.tell(run.incident_id, "last_look", f"after the last rung: {seen}")
        return rung.rung if well else None

    def intention(self, incident: Incident, playbook: Playbook) -> str:
        """What a playbook that may not act would do first, in a sentence."""
        run = Run(
            0, incident.id, playbook.name, incident.key, "alert", "imagined", dict(incident.labels), (), 0.0, None
        )
        rung = next((rung for rung in playbook.ladder if rung.steps), playbook.ladder[0])
        if not rung.steps:
            return f"{playbook.name} names nothing that it could do by itself: {rung.description or 'see its file'}"
        does = "; ".join(self._effects.describe(run, rung))
        only = "would" if playbook.autonomy == "dry_run" else "only observes; by hand, it would"
        return f"{playbook.name} {only}, at rung {rung.rung}: {does}"

    def _succeed(self, run: Run, playbook: Playbook, rung: str) -> None:
        """The run's end and what follows for the incident are one transaction: nobody would come back for the rest."""
        incident = self._desk.get(run.incident_id) if run.incident_id is not None else None
        firing = incident is not None and bool(self._verifier.answered(incident, playbook))
        with self._desk.transaction():
            self._runs.end(run, "mitigated" if firing else "verified", self._clock.now())
            self._desk.tell(run.incident_id, "verified", f"playbook {playbook.name}: rung {rung} verified")
            if incident is None or incident.state is IncidentState.RESOLVED:
                return
            if not firing:
                self._desk.healed(incident.id, self.guards.limits.steadiness)
                if incident.firing:
                    self._desk.advance(run.incident_id, IncidentEvent.RUN_ENDED)
                return
            self._desk.advance(run.incident_id, IncidentEvent.ACTED)
            self._desk.advance(
                run.incident_id, IncidentEvent.MITIGATED, "users are served; waiting for the cause to end"
            )
            page_if_needed(self._desk, self._verifier, incident, playbook, run.labels)

    def _escalate(self, run: Run, state: str, reason: str) -> None:
        with self._desk.transaction():
            self._runs.end(run, state, self._clock.now())
            if run.incident_id is None:
                self._desk.tell(None, "failed", f"run {run.id} of {run.playbook}: {reason}")
            else:
                # People know of the incident already, and wait for what became of the last resort.
                playbook = self.playbooks.get(run.playbook)
                last = playbook is not None and playbook.last_resort
                self._desk.advance(run.incident_id, IncidentEvent.ESCALATED, reason, news=last)


def page_if_needed(
    desk: Desk, verifier: Verifier, incident: Incident, playbook: Playbook, labels: Mapping[str, str]
) -> None:
    """Asks a person for what only a person can do, if that is so now."""
    needs = [need.text for need in playbook.needs_person if verifier.holds(fill(need.when, labels))]
    if needs:
        desk.page(incident.id, " ".join(needs))
