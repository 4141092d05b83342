"""`provider`: what an llm-proxy has found out about its providers from real traffic.

Per provider: `provider_up` (0: unhealthy), `provider_fault{class}` (1 while the newest failure is not followed by a
success), `provider_error_ratio` (0 to 1), `provider_latency_seconds_mean`, `provider_circuit_open` (1: open),
`rate_limit_remaining` (requests), `provider_keys{state}` (how many keys are active, cooldown, dead, retiring, retired
or spare; absent where a provider takes none). `providers_usable` counts those whose circuit is not open. What the proxy
does not know is absent. The note says class and last error of each failing provider. Fails when the proxy does not
answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal, get_args

from pydantic import Field

from watchdog.core.model import Measurement, Sample, labels_of
from watchdog.probes import ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration
from watchdog.system.proxy_api import ProviderHealth, ProviderKey


class ProviderProbeSettings(ProbeSettings):
    """`service` names a service that has a `proxy`."""

    kind: Literal["provider"]
    interval: Duration = Field(5.0, ge=0.05)


@probes.register(ProviderProbeSettings)
class ProviderProbe:
    """See the module."""

    def __init__(self, settings: ProviderProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._context = context

    async def measure(self) -> Measurement:
        found = await self._context.proxy_api(self._settings.service).providers(timeout=self._settings.timeout)
        usable = sum(health.circuit != "open" for health in found.values())
        samples = [sample for name, health in found.items() for sample in _samples(name, health)]
        failing = [
            f"{name}: {health.fault or health.status}: {health.last_error or 'no error text'}"
            for name, health in found.items()
            if health.fault or health.status != "healthy"
        ]
        return Measurement((*samples, Sample("providers_usable", usable)), "; ".join(failing))


def _samples(name: str, health: ProviderHealth) -> Iterator[Sample]:
    labels = labels_of(provider=name)
    yield Sample("provider_up", float(health.status != "unhealthy"), labels)
    yield Sample("provider_error_ratio", health.error_rate, labels)
    yield Sample("provider_circuit_open", float(health.circuit == "open"), labels)
    if health.fault is not None:
        yield Sample("provider_fault", 1.0, labels_of({"provider": name, "class": health.fault}))
    if health.keys:
        counted = Counter(key.state for key in health.keys)
        for state in get_args(ProviderKey.model_fields["state"].annotation):
            yield Sample("provider_keys", counted[state], labels_of(provider=name, state=state))
    if health.latency_ms is not None:
        yield Sample("provider_latency_seconds_mean", health.latency_ms / 1000, labels)
    if health.rate_limit_remaining is not None:
        yield Sample("rate_limit_remaining", health.rate_limit_remaining, labels)
