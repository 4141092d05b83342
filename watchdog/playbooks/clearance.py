"""Leave to act: waits until the guards allow a rung, asks a person where that is wanted, obeys a cancellation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from watchdog.actions import ActionContext
from watchdog.clock import Clock
from watchdog.core.ladder import RungOutcome
from watchdog.core.permission import BUDGETS, Approval, Decision, Reason, Wish
from watchdog.core.routing import NoticeKind
from watchdog.core.targets import parse_target
from watchdog.playbooks.bell import Bell
from watchdog.playbooks.desk import Desk
from watchdog.playbooks.effects import Effects, build
from watchdog.playbooks.guards import Guards
from watchdog.playbooks.schema import Playbook, Rung
from watchdog.playbooks.verification import Verifier
from watchdog.store.runs import Run, Runs
from watchdog.units import format_duration

RECONSIDER_SECONDS = 5.0
"""How often a waiting run asks the guards again when nothing wakes it earlier."""


class CancelledError(Exception):
    """A person cancelled the run; the text is who."""


class OverError(Exception):
    """The alerts ended by themselves while the run waited to be allowed to act."""


class Clearance:
    """Of all runs; remembers what each waits for."""

    def __init__(
        self,
        *,
        desk: Desk,
        runs: Runs,
        guards: Guards,
        verifier: Verifier,
        effects: Effects,
        context: Callable[[str, Mapping[str, str]], ActionContext],
        bell: Bell,
        clock: Clock,
    ) -> None:
        self._desk = desk
        self._runs = runs
        self.guards = guards
        self._verifier = verifier
        self._effects = effects
        self._context = context
        self._bell = bell
        self._clock = clock
        self._waiting: dict[int, Decision] = {}
        self.cancelled: dict[int, str] = {}
        """By run: who cancelled it."""

    def waiting(self, run_id: int) -> Decision | None:
        """The refusals that a run waits for now; None if it does not wait."""
        return self._waiting.get(run_id)

    def forget(self, run_id: int) -> None:
        """The run is over."""
        self._waiting.pop(run_id, None)
        self.cancelled.pop(run_id, None)

    async def wait(self, run: Run, playbook: Playbook, rung: Rung, *, begun: bool) -> tuple[RungOutcome, str] | None:
        """Waits until the guards allow the rung, and locks its target: None. Otherwise how it ended without acting:
        well again meanwhile, or refused for longer than a run may wait. What is `begun` was paid for: see Wish."""
        began = self._clock.now()
        shown: tuple[str, ...] = ()
        while True:
            self.heed(run)
            if run.trigger == "alert" and not begun and self._verifier.healthy(run, playbook, rung):
                well, _ = await self._verifier.verify(run, playbook, rung)
                if well:
                    return RungOutcome.VERIFIED, "well again before anything had to be done"
            run = self._runs.get(run.id) or run
            wish = replace(self.wish(run, playbook, rung), begun=begun)
            decision = self.guards.ask(wish, playbook, run.incident_id)
            if decision.allowed:
                self._waiting.pop(run.id, None)
                self.guards.lock(run, wish)
                return None
            if run.trigger == "alert" and not begun and not self._verifier.fires(run, playbook):
                raise OverError
            self._waiting[run.id] = decision
            reasons = tuple(d.reason for d in decision.denials)
            if reasons != shown:
                shown = reasons
                text = "; ".join(d.text for d in decision.denials)
                until = decision.until
                wait = f" (until {format_duration(until - self._clock.now())} from now)" if until else ""
                self._desk.tell(
                    run.incident_id, "refused", f"rung {rung.rung} may not act yet: {text}{wait}", {"reasons": reasons}
                )
            ended = self._ended(run, playbook, rung, wish, decision)
            if ended is not None:
                return ended
            now = self._clock.now()
            patience = began + playbook.wait_at_most
            if wish.approval is not None:
                patience = max(patience, wish.approval.until + RECONSIDER_SECONDS)
            if now >= patience:
                waited = format_duration(now - began)
                return RungOutcome.REFUSED, f"waited {waited} in vain: {decision.denials[0].text}"
            pause = min(RECONSIDER_SECONDS, patience - now)
            if decision.until is not None:
                pause = min(pause, decision.until - now)
            await self._bell.wait(max(0.02, pause))

    def _ended(
        self, run: Run, playbook: Playbook, rung: Rung, wish: Wish, decision: Decision
    ) -> tuple[RungOutcome, str] | None:
        """How a refusal ends the attempt; None where it is waited for. Asks a person where only that is missing."""
        if decision.final is not None:
            spent = decision.final.reason in BUDGETS
            return (RungOutcome.SPENT if spent else RungOutcome.REFUSED), decision.final.text
        if [denial.reason for denial in decision.denials] == [Reason.APPROVAL] and wish.approval is None:
            if self._runs.denied(run.incident_id, playbook.name, rung.rung):
                return RungOutcome.REFUSED, f"rung {rung.rung} was not approved before, and is not asked for again"
            self._ask(run, playbook, rung)
        return None

    def lasts(self, run: Run, playbook: Playbook, rung: Rung, *, begun: bool) -> bool:
        """Whether a run that was allowed still is: looking at the world takes time, in which anything may happen. One
        that has not begun gives its target free if not."""
        self.heed(run)
        wish = replace(self.wish(self._runs.get(run.id) or run, playbook, rung), begun=begun)
        allowed = self.guards.ask(wish, playbook, run.incident_id).allowed
        if not allowed and not begun:
            self.guards.unlock(run)
        return allowed

    def heed(self, run: Run) -> None:
        """Between two effects a person's cancellation is obeyed."""
        if run.id in self.cancelled:
            raise CancelledError(self.cancelled[run.id])

    def _ask(self, run: Run, playbook: Playbook, rung: Rung) -> None:
        """Asks a person, once a rung, when nothing else stands in the way."""
        now = self._clock.now()
        does = "; ".join(self._effects.describe(run, rung)) or "only wait"
        expires = format_duration(playbook.approval_expires)
        text = f"run {run.id} of {playbook.name} would, at rung {rung.rung}: {does}. Approve within {expires}"
        with self._desk.transaction():
            self._runs.approve(run, Approval(now, now + playbook.approval_expires, rung=rung.rung))
            self._desk.tell(run.incident_id, "approval", text, {"run": run.id})
            if run.incident_id is not None:
                by_hand = (
                    f"proxywatch approve {run.id}   (it acts at once, if nothing else stands in its way)",
                    f"proxywatch deny {run.id}   (nothing is done, and the incident is yours)",
                )
                self._desk.announce(run.incident_id, NoticeKind.APPROVAL, text, by_hand)

    def wish(self, run: Run, playbook: Playbook, rung: Rung) -> Wish:
        """What the rung would like to do, as the guards see it."""
        target = parse_target(run.target)
        context = self._context(run.target, run.labels)
        kinds = [build(step, context).disruptive for step in rung.steps]
        disruptive = any(kinds)
        return Wish(
            playbook=playbook.name,
            target=target,
            disruptive=disruptive,
            service=target.labels.get("service") or context.labels.get("service", ""),
            autonomy=rung.autonomy or playbook.autonomy,
            approval=run.approval if run.approval is not None and run.approval.rung in ("", rung.rung) else None,
            by_person=run.trigger == "person",
            run_id=run.id,
            effects=kinds.count(disruptive),
        )
