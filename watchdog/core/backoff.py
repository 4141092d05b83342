"""How long to wait after an effect: the backoff of a target, from what was done and when it was well."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from watchdog.core.past_effects import indexed
from watchdog.core.permission import Facts, Limits, PastEffect, Wish


def backoff_chain(wish: Wish, facts: Facts, limits: Limits, now: float) -> list[float]:
    """Times of the disruptive effects on the target since it was last healthy for `health_resets_after`. Health that
    is dated in the future has not been seen yet and resets nothing."""
    troubles = sorted((facts.troubles or {}).get(str(wish.target), ()), key=lambda t: t.opened_at)
    start = 0.0
    for index, trouble in enumerate(troubles):
        end = trouble.resolved_at
        following = min(troubles[index + 1].opened_at, now) if index + 1 < len(troubles) else now
        if end is not None and following - end >= limits.health_resets_after:
            start = end
    return sorted(e.at for e in effects_on_target(wish, facts) if e.disruptive and e.at > start)


def backoff_delay(target: str, count: int, limits: Limits) -> float:
    """Seconds to wait after the `count`-th effect in a chain. The jitter is fixed by target and count: a replay waits
    as long, and it only ever lengthens, so that the backoff never shrinks."""
    base = min(limits.backoff_initial * 2.0 ** min(count - 1, 30), limits.backoff_max)
    digest = hashlib.blake2b(f"{target}\x00{count}".encode(), digest_size=2).digest()
    stretch = 1 + limits.backoff_jitter * int.from_bytes(digest, "big") / 0xFFFF
    return float(min(base * stretch, limits.backoff_max))


def effects_on_target(wish: Wish, facts: Facts) -> Sequence[PastEffect]:
    """What was done to the wish's target, by whichever playbook."""
    return indexed(facts.effects).on(str(wish.target))
