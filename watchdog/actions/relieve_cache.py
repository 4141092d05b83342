"""`evict_cache` and `flush_cache`: make room in the proxy's shared response cache.

Eviction is idempotent in kind (it only ever removes what can be fetched again); flushes are recognised by the cache's
own counter, which the survey holds.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.errors import ProxywatchError
from watchdog.system.proxy_api import CacheHealth


class EvictCacheSettings(ActionSettings):
    """Either `expired`, which removes only what is past its time, or the least recently used `fraction`."""

    kind: Literal["evict_cache"]
    expired: bool = False
    fraction: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_of_both(self) -> EvictCacheSettings:
        if self.expired is (self.fraction is not None):
            raise ValueError("expected either `expired: true` or a `fraction` such as 0.5")
        return self


class FlushCacheSettings(ActionSettings):
    """No keys of its own."""

    kind: Literal["flush_cache"]


@actions.register(EvictCacheSettings)
class EvictCache:
    """Fails if the proxy does not answer."""

    disruptive = False

    def __init__(self, settings: EvictCacheSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        what = "the least recently used " + f"{self._settings.fraction:.0%}" if self._settings.fraction else ""
        return f"evict {what or 'expired entries'} from the cache of {self._context.label('service')}"

    async def survey(self) -> Survey:
        return _facts(await self._context.proxy.cache())

    async def perform(self, survey: Survey) -> str:
        result = await self._context.proxy.evict_cache(expired=self._settings.expired, fraction=self._settings.fraction)
        return f"evicted {result['evicted']} entries; {result['entries']} left, {result['memory_usage_mb']:.1f} MB"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            now = _facts(await self._context.proxy.cache())
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        seen = f"{survey['entries']} entries before, {now['entries']} now"
        if now["evictions"] > survey["evictions"] or now["expired"] > survey["expired"]:
            return Sighting(Outcome.DONE, seen)
        return Sighting(Outcome.NOT_DONE, seen)


@actions.register(FlushCacheSettings)
class FlushCache:
    """Fails if the proxy does not answer."""

    disruptive = True

    def __init__(self, settings: FlushCacheSettings, context: ActionContext) -> None:
        self._context = context

    def describe(self) -> str:
        return f"flush the cache of {self._context.label('service')}"

    async def survey(self) -> Survey:
        return _facts(await self._context.proxy.cache())

    async def perform(self, survey: Survey) -> str:
        return f"flushed {(await self._context.proxy.flush_cache())['flushed']} entries"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            now = _facts(await self._context.proxy.cache())
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        seen = f"flush counter {survey['flushes']} before, {now['flushes']} now"
        return Sighting(Outcome.DONE if now["flushes"] > survey["flushes"] else Outcome.NOT_DONE, seen)


def _facts(cache: CacheHealth) -> dict[str, int]:
    return cache.model_dump(include={"entries", "evictions", "expired", "flushes"})
