"""What people asked to be quiet or left alone: silences (nobody is told) and maintenance (nothing acts either)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from watchdog.core.routing import Matcher
from watchdog.core.targets import Target


@dataclass(frozen=True, slots=True)
class Silence:
    """Alertmanager's silence: from `since` until `until` nobody is told of alerts that meet all matchers."""

    id: str
    matchers: tuple[Matcher, ...]
    since: float
    until: float
    by: str
    comment: str

    def covers(self, labels: Mapping[str, str], now: float) -> bool:
        """Whether it holds for an alert with these labels now. One without matchers covers nothing, never all."""
        known = dict(labels)
        return self.since <= now < self.until and bool(self.matchers) and all(m.matches(known) for m in self.matchers)


@dataclass(frozen=True, slots=True)
class Maintenance:
    """People are at work: nothing acts on the targets, and nobody is told of them."""

    id: str
    targets: tuple[str, ...]
    """Targets or patterns of them with `*`, such as `service:llm-proxy`, `worker:*`; each covers what it contains."""
    since: float
    until: float
    by: str
    comment: str

    def covers(self, target: Target, now: float) -> bool:
        """Whether it holds for this target, or for what contains it, now."""
        names = [str(target), *([str(target.parent)] if target.parent else [])]
        return self.since <= now < self.until and any(
            fnmatchcase(name, pattern) for name in names for pattern in self.targets
        )


def silencing(silences: Iterable[Silence], labels: Mapping[str, str], now: float) -> Silence | None:
    """The first silence that covers an alert."""
    return next((silence for silence in silences if silence.covers(labels, now)), None)


def maintaining(windows: Iterable[Maintenance], target: Target, now: float) -> Maintenance | None:
    """The maintenance that covers a target; of several the one that ends last."""
    found = [window for window in windows if window.covers(target, now)]
    return max(found, key=lambda window: window.until, default=None)
