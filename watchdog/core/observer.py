"""When everything seems ill at once, suspect the observer first: how widespread trouble is, and what follows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    everything = set(known) | set(opened)
    recent = {target: at for target, at in opened.items() if _together(at, opened.values(), limits.within)}
    roots = sorted({str(target.parent or target) for target in recent})
    if len(recent) < limits.least_targets or len(roots) < 2 or len(recent) < limits.share * len(everything):
        return None
    until = max(recent.values()) + limits.within + limits.cooldown
    return None if now >= until else Storm(len(recent), len(everything), tuple(roots), until)


def _together(at: float, times: Iterable[float], within: float) -> bool:
    """Whether another target fell ill within so many seconds."""
    return sum(abs(other - at) <= within for other in times) > 1


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
