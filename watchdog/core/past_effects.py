"""What was done, found by target and by budget without going through all of it: guards ask far more often than act."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property

from watchdog.core.permission import PastEffect
from watchdog.core.targets import is_stranger


class PastEffects(tuple[PastEffect, ...]):  # noqa: SLOT001 - its indexes are kept beside it
    """A tuple of effects with its indexes, each made when it is first asked for."""

    @cached_property
    def _by_target(self) -> dict[str, list[PastEffect]]:
        found: dict[str, list[PastEffect]] = {}
        for effect in self:
            found.setdefault(effect.target, []).append(effect)
        return found

    @cached_property
    def _by_budget(self) -> dict[tuple[object, ...], list[float]]:
        found: dict[tuple[object, ...], list[float]] = {}
        for effect in self:
            found.setdefault((effect.disruptive, effect.playbook, effect.target), []).append(effect.at)
            if not effect.by_person:
                found.setdefault((effect.disruptive, is_stranger(effect.target)), []).append(effect.at)
        for times in found.values():
            times.sort()
        return found

    def on(self, target: str) -> Sequence[PastEffect]:
        """Those on this target, by whichever playbook."""
        return self._by_target.get(target, ())

    def of(self, playbook: str, target: str, *, disruptive: bool) -> Sequence[float]:
        """The times of a playbook's effects of this gravity on a target, oldest first."""
        return self._by_budget.get((disruptive, playbook, target), ())

    def everywhere(self, *, strangers: bool, disruptive: bool) -> Sequence[float]:
        """The times of all effects of this gravity that no person began, on what strangers caused or on the host."""
        return self._by_budget.get((disruptive, strangers), ())


def indexed(effects: Iterable[PastEffect]) -> PastEffects:
    """With indexes; what has them already is given back as it is."""
    return effects if isinstance(effects, PastEffects) else PastEffects(effects)


def since(times: Sequence[float], at: float) -> Sequence[float]:
    """Of sorted times those after `at`."""
    return times[bisect_right(times, at) :]
