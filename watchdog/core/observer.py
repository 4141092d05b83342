"""When everything seems ill at once, suspect the observer first: how widespread trouble is, and what follows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from watchdog.core.targets import Target


@dataclass(frozen=True, slots=True)
class StormLimits:
    """Node Healthcheck acts only while at least 51 % are healthy; a storm keeps blocking for a while after."""

    least_targets: int = 4
    """Fewer targets in trouble are never a storm."""
    share: float = 0.5
    """Of all known targets."""
    within: float = 60.0
    """They fell ill within so many seconds of each other."""
    cooldown: float = 60.0


@dataclass(frozen=True, slots=True)
class Storm:
    """Trouble so widespread that its cause is probably one, perhaps here. `until` is its end if nothing is added."""

    ill: int
    known: int
    roots: tuple[str, ...]
    until: float

    @property
    def text(self) -> str:
        """For people."""
        share = round(100 * self.ill / self.known)
        return f"{self.ill} of {self.known} targets ({share} %) fell ill together: {', '.join(self.roots[:4])}"


STORM_LIMITS = StormLimits()
"""The defaults."""


def storm(opened: Mapping[Target, float], known: Iterable[Target], limits: StormLimits, now: float) -> Storm | None:
    """The storm that rages, or None. `opened` says since when each target in trouble is so.

    It takes trouble under at least two roots (a service with all its workers is one root: that service's own trouble).
    """
    outbreak = outbreak_of(opened, limits)
    return None if outbreak is None else storm_of(outbreak, known, limits, now)


@dataclass(frozen=True, slots=True)
class Outbreak:
    """Targets that fell ill together, whatever share of all they are."""

    opened: frozenset[Target]
    """Everything in trouble, also what fell ill alone."""
    ill: int
    roots: tuple[str, ...]
    newest: float


def outbreak_of(opened: Mapping[Target, float], limits: StormLimits) -> Outbreak | None:
    """What a storm is made of, or None. It depends on the incidents only, so it can be kept until they change."""
    if len(opened) < limits.least_targets:
        return None
    times = sorted(opened.values())
    recent = {target: at for target, at in opened.items() if _together(at, times, limits.within)}
    roots = sorted({str(target.parent or target) for target in recent})
    if len(recent) < limits.least_targets or len(roots) < 2:
        return None
    return Outbreak(frozenset(opened), len(recent), tuple(roots), max(recent.values()))


def storm_of(outbreak: Outbreak, known: Iterable[Target], limits: StormLimits, now: float) -> Storm | None:
    """The storm that this outbreak is now, or None: too few of all known targets, or too long ago."""
    until = outbreak.newest + limits.within + limits.cooldown
    everything = len(outbreak.opened) + len(set(known) - outbreak.opened)
    if now >= until or outbreak.ill < limits.share * everything:
        return None
    return Storm(outbreak.ill, everything, outbreak.roots, until)


def _together(at: float, times: Sequence[float], within: float) -> bool:
    """Whether another target fell ill within so many seconds; `times` of all are sorted."""
    return bisect_right(times, at + within) - bisect_left(times, at - within) > 1


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What the agent found when it looked at itself."""

    at: float
    faults: tuple[str, ...] = ()
    """Each says what of the observer is not as it should be; empty: it can be trusted."""

    @property
    def trusted(self) -> bool:
        """Whether what it measures can be believed."""
        return not self.faults
