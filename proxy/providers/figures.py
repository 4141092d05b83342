"""PURE: what is counted of one model at one provider, in this worker or in the whole service."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

BUCKET_SECONDS = 5
HEALTH_WINDOW_SECONDS = 60.0
_LATENCY_WEIGHT = 0.2
"""Of the newest observation in the moving average of latencies."""


@dataclass(slots=True)
class Figures:
    """`buckets` maps the number of a 5 s bucket (as text, JSON's keys) to requests and errors."""

    requests: int = 0
    errors: int = 0
    latency_ms: float | None = None
    rate_limit_remaining: int | None = None
    last_success_at: float | None = None
    last_error_at: float | None = None
    last_error: str | None = None
    buckets: dict[str, list[int]] = field(default_factory=dict)

    def count(self, now: float, *, error: bool) -> None:
        """Adds one request that ended at `now` (monotonic)."""
        self.requests += 1
        self.errors += error
        bucket = self.buckets.setdefault(str(int(now // BUCKET_SECONDS)), [0, 0])
        bucket[0] += 1
        bucket[1] += error

    def window(self, now: float, seconds: float) -> tuple[int, int]:
        """Requests and errors of the last `seconds`, to the whole bucket."""
        first = int((now - seconds) // BUCKET_SECONDS) + 1
        recent = [counts for number, counts in self.buckets.items() if int(number) >= first]
        return sum(counts[0] for counts in recent), sum(counts[1] for counts in recent)

    def observe_latency(self, milliseconds: float) -> None:
        """Moves the average."""
        known = self.latency_ms
        self.latency_ms = milliseconds if known is None else known + _LATENCY_WEIGHT * (milliseconds - known)

    def absorb(self, news: Figures, now: float) -> None:
        """Folds a worker's news in and forgets buckets that no window reaches."""
        if news.latency_ms is not None:
            self.observe_latency(news.latency_ms)
        if news.rate_limit_remaining is not None:
            self.rate_limit_remaining = news.rate_limit_remaining
        self._add(news)
        oldest = int((now - 2 * HEALTH_WINDOW_SECONDS) // BUCKET_SECONDS)
        self.buckets = {number: counts for number, counts in self.buckets.items() if int(number) >= oldest}

    def _add(self, other: Figures) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.last_success_at = max(self.last_success_at or 0.0, other.last_success_at or 0.0) or None
        if (other.last_error_at or 0.0) > (self.last_error_at or 0.0):
            self.last_error_at, self.last_error = other.last_error_at, other.last_error
        for number, (requests, errors) in other.buckets.items():
            bucket = self.buckets.setdefault(number, [0, 0])
            bucket[0] += requests
            bucket[1] += errors


def together(parts: Iterable[Figures]) -> Figures:
    """A provider's figures from those of its models: sums, the latest times, and the latency and the remaining limit of
    the model that answered last."""
    total, newest = Figures(), 0.0
    for part in parts:
        total._add(part)  # noqa: SLF001 - its own class
        if (part.last_success_at or 0.0) >= newest and part.latency_ms is not None:
            newest, total.latency_ms = part.last_success_at or 0.0, part.latency_ms
            total.rate_limit_remaining = (
                total.rate_limit_remaining if part.rate_limit_remaining is None else part.rate_limit_remaining
            )
    return total
