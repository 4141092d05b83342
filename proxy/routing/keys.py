"""The life of one key of a provider, and which key a request takes. All times are monotonic seconds.

A key is judged by what its provider answers: it cools down on 429, dies on 401 and 403, and is asked again later. An
operator retires it; it goes on as a spare until the grace ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

COOLDOWN_SECONDS = 1.0
"""Of the first 429 without a Retry-After; doubles with each further one in a row."""
COOLDOWN_MAX_SECONDS = 60.0
COOLDOWN_LEAST_SECONDS = 0.1
"""Also after a Retry-After of nothing, which some servers send."""
SPENT_SECONDS = 900.0
"""A key without money or quota is tried again after so long."""
ASK_SECONDS = 15.0
"""A key that died is asked again after this, then after twice that, and so on up to `ASK_MAX_SECONDS`: some providers
answer 401 for a moment during an outage of their own."""
ASK_MAX_SECONDS = 300.0


class KeyState(StrEnum):
    """As people see it."""

    ACTIVE = "active"
    COOLDOWN = "cooldown"
    DEAD = "dead"
    RETIRING = "retiring"
    """Spare: takes a request only when no other key can."""
    RETIRED = "retired"
    SPARE = "spare"
    """Kept back by the configuration until an operator takes it into use."""


@dataclass(frozen=True, slots=True)
class KeyLife:
    """What all workers know of one key."""

    cooling_until: float = 0.0
    strikes: int = 0
    """Consecutive 429."""
    dead_since: float | None = None
    why: str = ""
    ask_at: float = 0.0
    """When a dead one is asked again."""
    asks: int = 0
    retire_at: float | None = None
    spare: bool = False

    def state(self, now: float) -> KeyState:
        """What it is at `now`."""
        if self.retire_at is not None and now >= self.retire_at:
            return KeyState.RETIRED
        if self.spare:
            return KeyState.SPARE
        if self.dead_since is not None:
            return KeyState.DEAD
        if now < self.cooling_until:
            return KeyState.COOLDOWN
        return KeyState.ACTIVE if self.retire_at is None else KeyState.RETIRING

    def until(self, now: float) -> float | None:
        """When that ends by itself; None if it does not."""
        match self.state(now):
            case KeyState.COOLDOWN:
                return self.cooling_until
            case KeyState.DEAD:
                return self.ask_at
            case KeyState.RETIRING:
                return self.retire_at
            case _:
                return None


UNKNOWN = KeyLife()
KEPT_BACK = KeyLife(spare=True)


def limited(life: KeyLife, retry_after: float | None, now: float, *, spent: bool) -> KeyLife:
    """After a 429. A longer cooldown is never shortened, and one that comes during a cooldown, from a request that was
    on its way, does not lengthen the next."""
    wait = retry_after
    if now < life.cooling_until:
        longer = now + (wait or 0.0) > life.cooling_until
        return replace(life, cooling_until=now + (wait or 0.0)) if longer else life
    if wait is None:
        wait = SPENT_SECONDS if spent else min(COOLDOWN_MAX_SECONDS, COOLDOWN_SECONDS * 2.0 ** min(life.strikes, 30))
    return replace(life, cooling_until=now + max(wait, COOLDOWN_LEAST_SECONDS), strikes=life.strikes + 1)


def refused(life: KeyLife, why: str, now: float) -> KeyLife:
    """After a 401 or 403, of a request or when asked again."""
    if life.dead_since is not None and now < life.ask_at:
        return life
    pause = min(ASK_MAX_SECONDS, ASK_SECONDS * 2.0 ** min(life.asks, 30))
    since = now if life.dead_since is None else life.dead_since
    return replace(life, dead_since=since, why=why, ask_at=now + pause, asks=life.asks + 1)


def worked(life: KeyLife, now: float) -> KeyLife:
    """After a request that it was good for; the very same object if nothing changes."""
    if life.dead_since is not None or life.asks:
        return replace(life, dead_since=None, why="", ask_at=0.0, asks=0, strikes=0)
    return replace(life, strikes=0) if life.strikes and now >= life.cooling_until else life


def retire(life: KeyLife, at: float) -> KeyLife:
    """An operator's will: spare until `at`, nothing afterwards."""
    return replace(life, retire_at=at)


def reinstated(_life: KeyLife) -> KeyLife:
    """An operator's will: as if nothing had happened to it."""
    return UNKNOWN


def choose(lives: Sequence[KeyLife], turn: int, now: float) -> list[int]:
    """Places of the keys that may be used, best first: the active ones in turn, then those on their way out."""
    states = [life.state(now) for life in lives]
    active = [place for place, state in enumerate(states) if state is KeyState.ACTIVE]
    first = turn % len(active) if active else 0
    return active[first:] + active[:first] + [n for n, state in enumerate(states) if state is KeyState.RETIRING]


def soonest(lives: Sequence[KeyLife], now: float) -> float | None:
    """Seconds until the first of them has cooled down; None if none is cooling."""
    ends = [life.cooling_until for life in lives if life.state(now) is KeyState.COOLDOWN]
    return min(ends) - now if ends else None
