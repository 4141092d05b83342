"""`proxy`: scrapes all metrics of an llm-proxy and asks whether it would take traffic.

Gives every sample of the proxy's `/metrics`, `up` (1: scraped) and `proxywatch_proxy_ready` (1: `/health/ready`
answered 200). Fails, with `up` 0, when the metrics cannot be fetched or read.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from watchdog.core.model import Measurement, Sample
from watchdog.errors import ProbeError
from watchdog.metrics.exposition import parse_text
from watchdog.probes import MeasurementError, ProbeContext, ProbeSettings, probes


class ProxyProbeSettings(ProbeSettings):
    """`service` names a service that has a `proxy`."""

    kind: Literal["proxy"]


@probes.register(ProxyProbeSettings)
class ProxyProbe:
    """See the module."""

    def __init__(self, settings: ProxyProbeSettings, context: ProbeContext) -> None:
        self._settings = settings
        self._context = context

    async def measure(self) -> Measurement:
        api = self._context.proxy_api(self._settings.service)
        timeout = self._settings.timeout
        ready, scraped = await asyncio.gather(
            api.ready(timeout=timeout), api.metrics_text(timeout=timeout), return_exceptions=True
        )
        try:
            if isinstance(scraped, BaseException):
                raise scraped
            samples = parse_text(scraped)
        except (ProbeError, ValueError) as error:
            raise MeasurementError(str(error), (Sample("up", 0.0),)) from error
        samples.append(Sample("up", 1.0))
        match ready:
            case (bool(is_ready), str(note)):
                samples.append(Sample("proxywatch_proxy_ready", float(is_ready)))
                return Measurement(tuple(samples), "" if is_ready else note)
            case ProbeError():
                samples.append(Sample("proxywatch_proxy_ready", 0.0))
                return Measurement(tuple(samples), str(ready))
        raise ready
