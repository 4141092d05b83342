"""One attempt at a rung: each step once, then what must hold afterwards, and back again where it did not.

Which steps an attempt has behind it is read from the recorded effects, so that an attempt that a crash interrupted goes
on at the step where it stood, on the way there as on the way back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from watchdog.core.incidents import IncidentEvent
from watchdog.core.ladder import RungOutcome
from watchdog.core.model import Outcome
from watchdog.playbooks.clearance import Clearance
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.effects import Effects, kind_of
from watchdog.playbooks.schema import Playbook, Rung, fill
from watchdog.playbooks.verification import Verifier
from watchdog.store.runs import Effect, Run

_HELD_UP = (RungOutcome.REFUSED, RungOutcome.SPENT)
_NOT_HELPED = (RungOutcome.FAILED, RungOutcome.STOPPED)


class Attempts:
    """Makes attempts; the runner decides which."""

    def __init__(self, *, desk: Desk, effects: Effects, clearance: Clearance, verifier: Verifier) -> None:
        self._desk = desk
        self._effects = effects
        self._clearance = clearance
        self._verifier = verifier

    async def make(self, run: Run, playbook: Playbook, rung: Rung, attempt: int) -> tuple[RungOutcome, str]:
        """How the attempt ended, and what was seen. Raises CancelledError or OverError as `Clearance.wait` does."""
        done = self._effects.done(run, rung, attempt)
        if not done and rung.when and not self._verifier.holds(fill(rung.when, run.labels)):
            return RungOutcome.SKIPPED, "there is nothing for it to do"
        if any(index >= len(rung.steps) for index in done):
            outcome, note = _why_back(rung, done)
        else:
            outcome, note = await self._forward(run, playbook, rung, attempt, done)
        if outcome in _HELD_UP and (half := self._effects.left_half_done(run, rung, attempt)):
            return outcome, f"{note}; {half}"
        if outcome not in _NOT_HELPED or not rung.roll_back or not self._effects.done(run, rung, attempt):
            return outcome, note
        return await self._back(run, playbook, rung, attempt, outcome, note)

    async def _forward(
        self, run: Run, playbook: Playbook, rung: Rung, attempt: int, done: Mapping[int, Effect]
    ) -> tuple[RungOutcome, str]:
        for index, step in enumerate(rung.steps):
            self._clearance.heed(run)
            outcome, note = await self._step(run, playbook, rung, attempt, index, begun=index > 0 or bool(done))
            if isinstance(outcome, RungOutcome):
                return outcome, note
            if outcome is Outcome.FAILED and step.on_failure != "continue":
                stop = step.on_failure == "stop"
                return (RungOutcome.STOPPED if stop else RungOutcome.FAILED), f"{kind_of(step)}: {note}"
        self._desk.advance(run.incident_id, IncidentEvent.ACTED)
        verified, seen = await self._verifier.verify(run, playbook, rung)
        return (RungOutcome.VERIFIED if verified else RungOutcome.FAILED), seen

    async def _step(
        self, run: Run, playbook: Playbook, rung: Rung, attempt: int, index: int, *, begun: bool
    ) -> tuple[Outcome | RungOutcome, str]:
        """One step with its retries, each as the guards allow; one that was done before a crash is not done again. A
        RungOutcome: the guards ended the attempt instead."""
        step = rung.all_steps[index]
        effect = self._effects.done(run, rung, attempt).get(index)
        if effect is not None and effect.outcome is not None:
            return effect.outcome, effect.note
        while True:
            ended = await self._clearance.wait(run, playbook, rung, begun=begun)
            if ended is not None:
                return ended
            last = self._effects.tries(run, rung, attempt, index) >= step.retries
            leave = partial(self._clearance.lasts, run, playbook, rung, begun=begun)
            result = await self._effects.perform(run, rung, attempt, index, last=last, leave=leave)
            if result is None:
                continue
            if result[0] is not Outcome.NOT_DONE:
                return result
            begun = True
            await asyncio.sleep(step.retry_pause)

    async def _back(
        self, run: Run, playbook: Playbook, rung: Rung, attempt: int, outcome: RungOutcome, note: str
    ) -> tuple[RungOutcome, str]:
        """Every step of the way back is tried, whatever becomes of the others; one that fails is for a person."""
        self._desk.tell(run.incident_id, "rolling_back", f"rung {rung.rung} is undone: {note}")
        failed: list[str] = []
        for index, step in enumerate(rung.roll_back, start=len(rung.steps)):
            result, seen = await self._step(run, playbook, rung, attempt, index, begun=True)
            if isinstance(result, RungOutcome):
                return RungOutcome.STOPPED, f"{note}; and it could not be undone: {seen}"
            if result is Outcome.FAILED:
                failed.append(f"{kind_of(step)}: {seen}")
        if failed:
            return RungOutcome.STOPPED, f"{note}; and it could not be undone: {'; '.join(failed)}"
        return outcome, f"{note}; undone"


def _why_back(rung: Rung, done: Mapping[int, Effect]) -> tuple[RungOutcome, str]:
    """Why a way back that a crash interrupted had been begun."""
    for index, step in enumerate(rung.steps):
        effect = done.get(index)
        if effect is not None and effect.outcome is Outcome.FAILED and step.on_failure != "continue":
            stop = step.on_failure == "stop"
            return (RungOutcome.STOPPED if stop else RungOutcome.FAILED), f"{kind_of(step)}: {effect.note}"
    return RungOutcome.FAILED, "what must hold afterwards did not"
