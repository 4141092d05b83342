"""What an operator may ask of the service: its caches, its providers, and what it holds back for a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

from watchdog.errors import ActionError
from watchdog.system.proxy_api.answers import Restraint, Warming
from watchdog.system.proxy_api.calling import Caller, parse


class AdminCalls(Caller):
    """Effects, and questions that take the admin key."""

    async def evict_cache(
        self, *, expired: bool = False, fraction: float | None = None, timeout: float = 10.0
    ) -> dict[str, Any]:
        """Evicts what has expired, or the least recently used `fraction` (0 to 1). What the proxy says it did."""
        body: dict[str, object] = {"expired": True} if expired else {"fraction": fraction}
        return await self._administer("POST", "/api/cache/evict", body, timeout)

    async def flush_cache(self, timeout: float = 10.0) -> dict[str, Any]:
        """Empties the cache for all workers. What the proxy says it did."""
        return await self._administer("DELETE", "/api/cache", None, timeout)

    async def set_circuit(
        self, provider: str, state: Literal["open", "closed"], seconds: float, reason: str, timeout: float = 5.0
    ) -> dict[str, Any]:
        """Forces a provider's circuit for so many seconds."""
        body: dict[str, object] = {"state": state, "seconds": seconds, "reason": reason}
        return await self._administer("POST", f"/api/providers/{quote(provider, safe='')}/circuit", body, timeout)

    async def set_provider_key(
        self, provider: str, key: str, state: Literal["active", "retired"], grace_seconds: float, timeout: float = 5.0
    ) -> dict[str, Any]:
        """Retires one key of a provider after a grace, or takes it back."""
        path = f"/api/providers/{quote(provider, safe='')}/keys/{quote(key, safe='')}"
        return await self._administer("POST", path, {"state": state, "grace_seconds": grace_seconds}, timeout)

    async def invalidate_cache(self, selector: Mapping[str, str], timeout: float = 30.0) -> dict[str, Any]:
        """Forgets the answers that match. What the proxy says it did."""
        return await self._administer("POST", "/api/cache/invalidate", selector, timeout)

    async def cache_config(self, timeout: float = 5.0) -> dict[str, Any]:
        """The caches' settings that are in force, by cache."""
        return await self._administer("GET", "/debug/cache/config", None, timeout)

    async def cache_stats(self, timeout: float = 5.0) -> dict[str, Any]:
        """What a look at every entry tells of the response cache."""
        return await self._administer("GET", "/debug/cache/stats", None, timeout)

    async def cache_keys(self, limit: int, timeout: float = 5.0) -> list[dict[str, Any]]:
        """Entries of the response cache, some of them: ages, sizes, hits, never a prompt."""
        keys = (await self._administer("GET", f"/debug/cache/keys?limit={limit}", None, timeout)).get("keys")
        if not isinstance(keys, list):
            raise ActionError(f"{self._base}/debug/cache/keys: no list of keys")
        return keys

    async def compact_cache(self, timeout: float = 30.0) -> dict[str, Any]:
        """Removes damaged, expired and unused entries. What the proxy says it did."""
        return await self._administer("POST", "/api/cache/compact", None, timeout)

    async def warm_cache(self, timeout: float = 10.0) -> Warming:
        """Begins a round of warming at once, whatever the interval."""
        return await self._warming("/api/cache/warm", timeout)

    async def pause_warming(self, seconds: float, timeout: float = 5.0) -> Warming:
        """No warming for so long."""
        return await self._warming("/api/cache/pause-warming", timeout, {"seconds": seconds})

    async def resume_warming(self, timeout: float = 5.0) -> Warming:
        """Warming goes on."""
        return await self._warming("/api/cache/resume-warming", timeout)

    async def restraints(self, timeout: float = 5.0) -> tuple[Restraint, ...]:
        """All that is held back now."""
        what = f"{self._base}/api/restraints"
        found = (await self._administer("GET", "/api/restraints", None, timeout)).get("restraints")
        if not isinstance(found, list):
            raise ActionError(f"{what}: no list of restraints")
        return tuple(parse(Restraint, one, what, ActionError) for one in found)

    async def shed_load(self, share: float, seconds: float, reason: str, timeout: float = 5.0) -> Restraint:
        """Refuses a share of new requests for so long; 0 seconds end it."""
        return await self._restrain("/api/load", {"share": share}, seconds, reason, timeout)

    async def tighten_limits(self, share: float, seconds: float, reason: str, timeout: float = 5.0) -> Restraint:
        """Leaves callers a share of their limits for so long; 0 seconds end it."""
        return await self._restrain("/api/limits", {"share": share}, seconds, reason, timeout)

    async def lower_rate(
        self, provider: str, share: float, seconds: float, reason: str, timeout: float = 5.0
    ) -> Restraint:
        """Leaves a provider a share of its traffic for so long; 0 seconds end it."""
        path = f"/api/providers/{quote(provider, safe='')}/rate"
        return await self._restrain(path, {"share": share}, seconds, reason, timeout)

    async def suspend_key(self, key: str, seconds: float, reason: str, timeout: float = 5.0) -> Restraint:
        """Refuses a caller's key for so long; 0 seconds end it."""
        path = f"/api/keys/{quote(key, safe='')}"
        return await self._restrain(path, {"state": "suspended"}, seconds, reason, timeout)

    async def _restrain(
        self, path: str, what: dict[str, object], seconds: float, reason: str, timeout: float
    ) -> Restraint:
        body = what | {"seconds": seconds, "reason": reason}
        return parse(Restraint, await self._administer("POST", path, body, timeout), self._base + path, ActionError)

    async def _warming(self, path: str, timeout: float, body: dict[str, object] | None = None) -> Warming:
        return parse(Warming, await self._administer("POST", path, body, timeout), self._base + path, ActionError)
