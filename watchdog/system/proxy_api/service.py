"""The service as a whole, over its public port: what it tells everybody."""

from __future__ import annotations

from watchdog.errors import ProbeError
from watchdog.system.proxy_api.answers import CacheHealth, ProviderHealth, Warming
from watchdog.system.proxy_api.calling import Caller, object_of, parse


class ServiceCalls(Caller):
    """Questions that need no key."""

    async def providers(self, timeout: float = 5.0) -> dict[str, ProviderHealth]:
        """Health by provider name."""
        url = f"{self._base}/health/providers"
        content = object_of(await self._http.get(url, timeout=timeout), url)
        return {name: parse(ProviderHealth, health, f"{url}: {name}") for name, health in content.items()}

    async def cache(self, timeout: float = 5.0) -> CacheHealth:
        """The response cache."""
        url = f"{self._base}/health/cache"
        return parse(CacheHealth, object_of(await self._http.get(url, timeout=timeout), url), url)

    async def warming(self, timeout: float = 5.0) -> Warming:
        """What warming does, and whether it is paused."""
        url = f"{self._base}/metrics/cache/warming"
        return parse(Warming, object_of(await self._http.get(url, timeout=timeout), url), url)

    async def ready(self, timeout: float = 5.0) -> tuple[bool, str]:
        """Whether the proxy would take traffic, and what it says about it."""
        response = await self._http.get(f"{self._base}/health/ready", timeout=timeout)
        return response.status_code == 200, f"/health/ready answered {response.status_code}"

    async def metrics_text(self, timeout: float = 5.0) -> str:
        """All of the proxy's metrics in Prometheus' text format."""
        url = f"{self._base}/metrics"
        response = await self._http.get(url, headers={"accept": "text/plain;version=0.0.4"}, timeout=timeout)
        if response.status_code != 200:
            raise ProbeError(f"GET {url} answered {response.status_code}")
        return response.text
