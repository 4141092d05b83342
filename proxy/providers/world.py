"""What is known of circuits, keys and limits, as `routing.retry` asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from proxy.providers.record import ProviderRecord
from proxy.providers.sending import Lane
from proxy.routing.candidates import Candidate
from proxy.routing.order import Standing
from proxy.routing.outcome import Failure, Fault
from proxy.routing.retry import KeyChoice

TRIAL_SECONDS = 3.0
"""A trial of an open circuit has this long at the least until its first content."""
TRIAL_LATENCIES = 4
"""And this many times what the provider's answers have taken on average."""
_LEASE_MARGIN_SECONDS = 1.0
_NONE: frozenset[str] = frozenset()


class OwnLimits(Protocol):
    """What the proxy itself will send to each provider."""

    def allows(self, provider: str) -> bool:
        """Whether one more request may be sent there, which is then counted."""
        ...

    def wait(self, provider: str) -> float:
        """Seconds until it may again."""
        ...

    def lowered(self) -> bool:
        """Whether `spared` may tell of any."""
        ...

    def spared(self, providers: Iterable[str]) -> frozenset[str]:
        """Of the providers in their order, those that one request should pass by if another takes it."""
        ...


class World:
    """What is known of circuits, keys and limits, as `routing.retry` asks for it; without any state of a request."""

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        record: ProviderRecord,
        own_limits: OwnLimits | None,
        limit_seconds: float,
    ) -> None:
        self._lanes = lanes
        self._record = record
        self._own_limits = own_limits
        self._limit_seconds = limit_seconds

    def standing(self, candidate: Candidate) -> Standing:
        """What the circuits on this route allow now."""
        return self._record.standing(candidate.provider, candidate.label)

    def claim(self, candidate: Candidate) -> bool:
        """Whether this request may make the one trial."""
        lease = self.limit(candidate, trial=True) + _LEASE_MARGIN_SECONDS
        return self._record.claim(candidate.provider, candidate.label, lease)

    def key(self, candidate: Candidate, tried: AbstractSet[str]) -> KeyChoice | Failure:
        """A usable key that is not among `tried`, or why there is none."""
        name = candidate.provider
        choice = self._lanes[name].keys.choose(tried)
        if self._own_limits is None or isinstance(choice, Failure) or self._own_limits.allows(name):
            return choice
        wait = self._own_limits.wait(name)
        return Failure(Fault.QUOTA, "the proxy's own limit is reached", retry_after=wait, asked=False)

    def spared(self, candidates: Sequence[Candidate]) -> frozenset[str]:
        """The providers whose rate is lowered and that this request should pass by. To be asked once a request."""
        if self._own_limits is None or not self._own_limits.lowered():
            return _NONE
        return self._own_limits.spared(candidate.provider for candidate in candidates)

    def limit(self, candidate: Candidate, *, trial: bool) -> float:
        """Seconds for one attempt. A trial gets less patience, and so does the first attempt after a listing closed the
        circuit, so that one caller does not wait long for a provider that is still silent; but never less than several
        times what its answers have taken, or a slow one could not come back."""
        name, label = candidate.provider, candidate.label
        if not trial and not self._record.circuit(name, label).probation:
            return self._limit_seconds
        usual_ms = self._record.figures(name, label).latency_ms
        if usual_ms is None:
            return self._limit_seconds
        return min(self._limit_seconds, max(TRIAL_SECONDS, TRIAL_LATENCIES * usual_ms / 1000))
