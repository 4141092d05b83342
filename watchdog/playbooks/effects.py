"""One effect: its intent is written before it is tried and its result after; what a crash left open is looked up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from watchdog.actions import Action, ActionContext, ActionSettings, Survey, actions
from watchdog.clock import Clock
from watchdog.core.model import Outcome
from watchdog.errors import ProxywatchError
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.schema import Rung
from watchdog.store.runs import Effect, Run, Runs
from watchdog.units import format_duration

FINDING = "finding"
"""The kind of a story's line that tells a cause rather than an effect; its `text` is the whole."""
LOOK_SECONDS = 15.0
"""How long a look at the world may take before it has told nothing."""


class Effects:
    """Performs the steps of rungs, each once, and knows what has become of them."""

    def __init__(
        self, desk: Desk, runs: Runs, context: Callable[[str, Mapping[str, str]], ActionContext], clock: Clock
    ) -> None:
        self._desk = desk
        self._runs = runs
        self._context = context
        self._clock = clock
        self._under_way = 0
        self._concluded = asyncio.Event()
        self._ending = False

    async def end(self, finish_seconds: float, advanced: Callable[[], None]) -> None:
        """Begins no effect any more, and waits so long for those that are under way, which lasts as long as they do:
        half done is worse than late. `advanced` is called every second meanwhile."""
        self._ending = True
        deadline = asyncio.get_running_loop().time() + finish_seconds
        while self._under_way and (left := deadline - asyncio.get_running_loop().time()) > 0:
            advanced()
            self._concluded.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(1.0, left)):
                    await self._concluded.wait()

    def done(self, run: Run, rung: Rung, attempt: int) -> dict[int, Effect]:
        """By step: what this attempt has tried and what was not proven undone."""
        mine = [e for e in self._runs.effects_of(run.id) if (e.rung, e.attempt) == (rung.rung, attempt)]
        return {e.step: e for e in mine if e.outcome is not Outcome.NOT_DONE}

    def left_half_done(self, run: Run, rung: Rung, attempt: int) -> str:
        """What a rung that ended in its middle has done and not finished, in words; empty if it did nothing or all."""
        done = [index for index in self.done(run, rung, attempt) if index < len(rung.steps)]
        if not done or len(done) == len(rung.steps):
            return ""
        names = [kind_of(rung.steps[index]) for index in sorted(done)]
        left = [kind_of(step) for index, step in enumerate(rung.steps) if index not in done]
        return f"rung {rung.rung} was left half done: {', '.join(names)} done, {', '.join(left)} not"

    def tries(self, run: Run, rung: Rung, attempt: int, index: int) -> int:
        """How often the step was tried in this attempt, what was proven undone included."""
        mine = [e for e in self._runs.effects_of(run.id) if (e.rung, e.attempt, e.step) == (rung.rung, attempt, index)]
        return len(mine)

    def describe(self, run: Run, rung: Rung) -> list[str]:
        """What the rung's steps would do, in words; what could not be done says why."""
        found = []
        for step in rung.steps:
            try:
                found.append(build(step, self._within(run)).describe())
            except ProxywatchError as error:
                found.append(f"{kind_of(step)} (cannot be done: {error})")
        return found

    async def perform(
        self, run: Run, rung: Rung, attempt: int, index: int, *, last: bool, leave: Callable[[], bool]
    ) -> tuple[Outcome, str] | None:
        """The step at `index` of `rung.all_steps`, once: done or failed, with what was seen; not done if it failed,
        this is not the `last` try, and the world shows that nothing has happened. The way back counts as
        gentle: it only takes back what was. None if `leave` to act, asked once the world has been surveyed, is gone by
        then. Raises StoreError, before the effect if its intent cannot be written."""
        step = rung.all_steps[index]
        action = build(step, self._within(run))
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                survey = await action.survey()
            does = action.describe()
        except (ProxywatchError, OSError) as error:
            why = str(error) or f"no answer within {format_duration(LOOK_SECONDS)}"
            self._desk.tell(run.incident_id, "failed", f"{kind_of(step)}: cannot survey: {why}")
            return Outcome.FAILED, why
        if self._ending:
            await asyncio.get_running_loop().create_future()  # the run is about to be cancelled
        if not leave():
            return None
        with self._desk.transaction():
            effect = self._runs.intend(
                run,
                rung=rung.rung,
                attempt=attempt,
                step=index,
                action=kind_of(step),
                arguments=step.model_dump(mode="json"),
                survey=survey,
                disruptive=action.disruptive and index < len(rung.steps),
                now=self._clock.now(),
            )
            if run.incident_id is not None:
                self._desk.acted(run.incident_id)
            self._desk.tell(run.incident_id, "intent", does, {"key": effect.key, "survey": dict(survey)})
        self._under_way += 1
        try:
            return await self._carry_out(run, effect, action, survey, timeout=step.timeout, last=last)
        finally:
            self._under_way -= 1
            self._concluded.set()

    async def _carry_out(
        self, run: Run, effect: Effect, action: Action, survey: Survey, *, timeout: float, last: bool
    ) -> tuple[Outcome, str]:
        """What was just recorded as intended, until its result is."""
        try:
            async with asyncio.timeout(timeout):
                note = await action.perform(survey)
            outcome = Outcome.DONE
        except TimeoutError:
            outcome, note = Outcome.FAILED, f"not done after {format_duration(timeout)}"
        except (ProxywatchError, OSError) as error:
            outcome, note = Outcome.FAILED, str(error)
        if outcome is Outcome.FAILED and not last:
            seen, sight = await self._look(run, effect)
            if seen is not Outcome.UNKNOWN:
                outcome, note = seen, f"{note}; looked again: {sight}"
        found, note = note, note.partition("\n")[0]
        with self._desk.transaction():
            self._runs.conclude(effect, outcome, note, self._clock.now())
            self._desk.tell(run.incident_id, str(outcome), note, {"key": effect.key})
            if found != note:
                self._desk.tell(run.incident_id, FINDING, note, {"name": effect.action, "run": run.id, "text": found})
        return outcome, note

    def _within(self, run: Run) -> ActionContext:
        """What the run's actions may touch; numbers of runs begin anew with a new store, so its time names it too."""
        return replace(self._context(run.target, run.labels), run=f"{run.id}-{run.started_at:.0f}")

    async def reconcile(self, run: Run, advanced: Callable[[], None] = lambda: None) -> None:
        """Looks at the world for every effect of a run whose end nobody wrote down, and writes what is there.
        `advanced` is called before each look."""
        for effect in self._runs.effects_of(run.id):
            if effect.outcome is None:
                advanced()
                outcome, note = await self._look(run, effect)
                with self._desk.transaction():
                    self._runs.conclude(effect, outcome, f"reconciled: {note}", self._clock.now())
                    text = f"{effect.action}: {outcome}: {note}"
                    self._desk.tell(run.incident_id, "reconciled", text, {"key": effect.key})

    async def _look(self, run: Run, effect: Effect) -> tuple[Outcome, str]:
        try:
            settings = actions.kinds[effect.action].model_construct(**effect.arguments)
            action: Action = actions.implementation(effect.action)(settings, self._within(run))
            async with asyncio.timeout(LOOK_SECONDS):
                sighting = await action.observe(effect.survey)
        except TimeoutError:
            return Outcome.UNKNOWN, f"cannot tell: no answer within {format_duration(LOOK_SECONDS)}"
        except (ProxywatchError, OSError, KeyError, ValueError) as error:
            return Outcome.UNKNOWN, f"cannot tell: {error}"
        return sighting.outcome, sighting.note


def build(step: ActionSettings, context: ActionContext) -> Action:
    """The action that a step of a playbook is."""
    return actions.implementation(kind_of(step))(step, context)


def kind_of(step: ActionSettings) -> str:
    """The step's kind."""
    return str(step.model_dump(include={"kind"})["kind"])
