"""`cache`: the response cache of an llm-proxy.

Gives `cache_usage_ratio` (the larger of the shares of size and of entries in use), `cache_size_bytes`,
`cache_max_bytes`, `cache_entries`, `cache_max_entries` and `cache_hit_rate` (0 to 1; absent before the first look-up).
A cache that is switched off gives nothing but a note. Fails when the proxy does not answer.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from watchdog.core.model import Measurement, Sample
from watchdog.probes import ProbeContext, ProbeSettings, probes
from watchdog.registry import Duration

_BYTES_PER_MB = 1024 * 1024


class CacheProbeSettings(ProbeSettings):
    """`service` names a service that has a `proxy`."""

    kind: Literal["cache"]
    interval: Duration = Field(5.0, ge=0.05)


@probes.register(CacheProbeSettings)
class CacheProbe:
    """See the module."""

    def __init__(self, settings: CacheProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._context = context

    async def measure(self) -> Measurement:
        health = await self._context.proxy_api(self._settings.service).cache(timeout=self._settings.timeout)
        if health.status == "disabled":
            return Measurement((), "the cache is disabled")
        samples = [
            Sample("cache_usage_ratio", health.usage_ratio),
            Sample("cache_size_bytes", health.memory_usage_mb * _BYTES_PER_MB),
            Sample("cache_max_bytes", health.max_memory_mb * _BYTES_PER_MB),
            Sample("cache_entries", health.entries),
            Sample("cache_max_entries", health.max_entries),
        ]
        if health.hit_rate is not None:
            samples.append(Sample("cache_hit_rate", health.hit_rate))
        return Measurement(tuple(samples), "" if health.status == "healthy" else f"the proxy calls it {health.status}")
