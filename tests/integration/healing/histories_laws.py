"""What must be true of every effect in the moment in which it begins, told from the machine's ledger and the books."""

from __future__ import annotations

import json
from dataclasses import dataclass

from histories_agent import LIMITS, PLAYBOOKS, SYNC_SECONDS, Agent
from histories_machine import NEEDS, PROVIDER, Act, Machine

from watchdog.core.targets import Target, parse_target
from watchdog.playbooks.schema import Rung

_HAIR = 1e-3
"""Times of the size of an epoch cannot be added exactly."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What the books say of the effect that begins."""

    effect: int
    rung: str
    attempt: int
    step: int
    playbook: str
    trigger: str
    intended_at: float
    first: bool
    """Nothing of its attempt has been tried before."""


class Judge:
    """Of one history. `broken` says which laws were broken, and when."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.agent: Agent | None = None
        self.broken: list[str] = []
        self.went_back = False
        """A clock that was set back brings effects of several windows into one; then only what begins is counted."""
        machine.judge = self.begins

    def begins(self, target: Target, run: int, disruptive: bool) -> Act:
        """An effect is about to happen."""
        assert self.agent is not None
        now = self.agent.clock.now()
        intent = self._intent(run)
        if intent is None:
            self._say(f"run {run} touches {target} without having written that it will")
            return Act(now, target, run, "", disruptive, False)
        machine, rung = self._machine, self._rung(intent)
        back = intent.step >= len(rung.steps)
        machine.touched[intent.effect] += 1
        if machine.touched[intent.effect] > 1 and disruptive:
            self._say(f"effect {intent.effect} of run {run} is begun a second time")
        begun = intent.intended_at
        if any(since < begun and (end is None or begun < end) for since, end in machine.pauses):
            self._say(f"run {run} touches {target} while paused")
        self._alone(target, run)
        if disruptive and self._informed() and self._remote(target):
            self._say(f"run {run} disturbs {target} for a remote fault")
        by_person = intent.trigger == "person"
        if not by_person:
            if any(w.since < begun and w.covers(target, begun) for w in machine.maintenance):
                self._say(f"run {run} touches {target} under maintenance")
            if not back and disruptive:
                self._budgets(target, intent, run, now)
            if intent.first:
                self._first(target, intent, run, now, disruptive=disruptive)
        return Act(now, target, run, intent.playbook, disruptive and not back, by_person)

    def _first(self, target: Target, intent: Intent, run: int, now: float, *, disruptive: bool) -> None:
        rung = self._rung(intent)
        autonomy = rung.autonomy or PLAYBOOKS[intent.playbook].autonomy
        if autonomy != "auto" and run not in self._machine.granted:
            self._say(f"run {run} acts on {target} although nobody granted it")
        needs = NEEDS.get(target.labels.get("service", "web"), ())
        ailing = [need for need in needs if self._machine.ill(need)]
        if disruptive and self._informed() and ailing:
            self._say(f"run {run} disturbs {target}, and {ailing[0]} is ill")
        if disruptive:
            self._backoff(target, now)

    def _alone(self, target: Target, run: int) -> None:
        """No other effect is under way on it, or on what contains it or is contained in it; and no other run is between
        its first effect there and the end of its verification."""
        family = {target, target.parent, *(t for t in self._machine.pids if t.parent == target)} - {None}
        for other, by in self._machine.touching.items():
            if other in family:
                self._say(f"run {run} touches {target} while run {by} touches {other}")
        rows = self._machine.books.execute(
            "SELECT r.id, r.position, e.rung, e.arguments, e.target FROM effects e JOIN runs r ON r.id = e.run_id"
            " WHERE r.ended_at IS NULL AND r.id != ? AND (e.outcome IS NULL OR e.outcome != 'not_done')",
            (run,),
        )
        for by, position, rung, details, other_target in rows:
            ended = [a for a in json.loads(position)["attempts"] if a["rung"] == rung]
            if len(ended) < json.loads(details)["attempt"] and parse_target(other_target) in family:
                self._say(f"run {run} touches {target} before run {by} is done with {other_target}")

    def _informed(self) -> bool:
        """Whether the agent knows what fires: what came while nothing could be written it finds at its next round."""
        fate = self._machine.fate
        return self._machine.time.uptime > max(fate.full_until, fate.unreadable_until) + SYNC_SECONDS

    def _remote(self, target: Target) -> bool:
        """What fires of a local target are symptoms only, and a provider is ill."""
        mine = [a for a in self._machine.alerts.values() if a.label["target"] == str(target)]
        symptoms = bool(mine) and all("symptom" in a.label for a in mine)
        return target == PROVIDER or (symptoms and self._machine.ill(str(PROVIDER)))

    def _budgets(self, target: Target, intent: Intent, run: int, now: float) -> None:
        if self.went_back and not intent.first:
            return
        alike = [act for act in self._machine.ledger if act.charged and not act.by_person]
        mine = [act for act in alike if (act.target, act.playbook) == (target, intent.playbook)]
        budget = PLAYBOOKS[intent.playbook].budget or LIMITS.budget
        for name, windows, acts in (("its", budget, mine), ("the host's", LIMITS.host_budget, alike)):
            for window in windows:
                count = 1 + sum(act.at > now - window.seconds + _HAIR for act in acts)
                if count > window.count:
                    self._say(f"run {run} on {target}: {count} effects in {name} {window}")

    def _backoff(self, target: Target, now: float) -> None:
        rows = self._machine.books.execute("SELECT opened_at, resolved_at FROM incidents WHERE key = ?", (str(target),))
        troubles = sorted(rows.fetchall(), key=lambda trouble: float(trouble[0]))
        following = [*(opened for opened, _ in troubles[1:]), now]
        well = [0.0]
        for (_, ended), again in zip(troubles, following, strict=False):
            if ended is not None and again - ended >= LIMITS.health_resets_after - _HAIR:
                well.append(ended)
        chain = [a.at for a in self._machine.ledger if a.target == target and a.charged and a.at > max(well)]
        if chain:
            least = min(LIMITS.backoff_initial * 2.0 ** (len(chain) - 1), LIMITS.backoff_max)
            if now - chain[-1] < least - _HAIR:
                self._say(f"{target} is disturbed {now - chain[-1]:.1f} s after effect {len(chain)} of a chain")

    def _intent(self, run: int) -> Intent | None:
        rows = self._machine.books.execute(
            "SELECT e.id, e.rung, e.arguments, e.step, r.playbook, r.trigger, e.intended_at, e.outcome"
            " FROM effects e JOIN runs r ON r.id = e.run_id WHERE r.id = ? ORDER BY e.id",
            (run,),
        ).fetchall()
        if not rows or rows[-1][-1] is not None:
            return None
        *earlier, (effect, rung, details, step, playbook, trigger, intended_at, _) = rows
        attempt = json.loads(details)["attempt"]
        first = all((r[1], json.loads(r[2])["attempt"]) != (rung, attempt) for r in earlier)
        same = [r for r in earlier if (r[1], json.loads(r[2])["attempt"], r[3]) == (rung, attempt, step)]
        if any(outcome != "not_done" for *_, outcome in same):
            self._say(f"run {run} does step {step} of {rung} again, and nobody knows that it had not happened")
        return Intent(effect, rung, attempt, step, playbook, trigger, intended_at, first)

    def _rung(self, intent: Intent) -> Rung:
        return next(rung for rung in PLAYBOOKS[intent.playbook].ladder if rung.rung == intent.rung)

    def _say(self, text: str) -> None:
        self.broken.append(f"{self._machine.time.uptime:.1f} s: {text}")
