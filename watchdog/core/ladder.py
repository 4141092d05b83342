"""Which rung comes next, from the outcomes so far. Gentlest first; the rung after the last is a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class RungOutcome(StrEnum):
    """How one attempt at a rung ended."""

    VERIFIED = "verified"
    FAILED = "failed"
    """A step failed, or what must hold afterwards did not hold in time."""
    SKIPPED = "skipped"
    """Its `when` did not hold, so there was nothing for it to do."""
    REFUSED = "refused"
    """A guard refused it for longer than a run may wait."""
    SPENT = "spent"
    """A budget has no room for it: it, and what stands above it, is not to be had by itself."""
    STOPPED = "stopped"
    """A step failed whose `on_failure` says that nothing more may be tried."""


@dataclass(frozen=True, slots=True)
class RungLimit:
    """What the ladder needs to know of a rung."""

    name: str
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that has ended."""

    rung: str
    outcome: RungOutcome
    note: str = ""


@dataclass(frozen=True, slots=True)
class Try:
    """Try the rung at `index`, for the `attempt`-th time (from 1)."""

    index: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A rung verified."""

    rung: str


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Nothing is left to try; `reason` is for the person who is told."""

    reason: str


def next_move(rungs: Sequence[RungLimit], attempts: Sequence[Attempt]) -> Try | Finished | Exhausted:
    """The next move. Attempts at rungs that no longer exist (the playbook was edited meanwhile) are passed over."""
    if not rungs:
        return Exhausted("the playbook has no rungs")
    last = attempts[-1] if attempts else None
    if last is not None and last.outcome is RungOutcome.VERIFIED:
        return Finished(last.rung)
    if last is not None and last.outcome in {RungOutcome.STOPPED, RungOutcome.REFUSED, RungOutcome.SPENT}:
        return Exhausted(last.note or f"rung {last.rung} was {last.outcome}")
    for index, rung in enumerate(rungs):
        mine = [a for a in attempts if a.rung == rung.name]
        spent = any(a.outcome is RungOutcome.SKIPPED for a in mine) or len(mine) >= rung.attempts
        later = any(a.rung == r.name for a in attempts for r in rungs[index + 1 :])
        if not spent and not later:
            return Try(index, len(mine) + 1)
    tried = [a for a in attempts if a.outcome is RungOutcome.FAILED]
    names = ", ".join(dict.fromkeys(a.rung for a in tried)) or "nothing applied"
    return Exhausted(f"the ladder is exhausted: {names}" + (f" did not help ({tried[-1].note})" if tried else ""))
