"""Why a proxy's cache helps little: lifetime, size, requests that never repeat. Figures first, then what they suggest.

A collector of evidence: it looks, and leaves the judgement to whoever reads the incident.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from watchdog.actions import ActionContext
from watchdog.units import format_duration

_LOOKED_AT = 1000
"""Entries whose hits are looked at."""
_CHURN = 0.8
_CROWDED = 0.85
_SHORT_LIVED = 0.3


async def cache_diagnosis(context: ActionContext) -> str:
    """Hit rate, lifetime, room, evictions, and how many entries were ever asked for again."""
    proxy = context.proxy
    config, stats, keys, warming = await asyncio.gather(
        proxy.cache_config(), proxy.cache_stats(), proxy.cache_keys(_LOOKED_AT), proxy.warming()
    )
    state = "paused" if warming.paused else "on" if warming.enabled else "off"
    return "\n".join((*findings(config.get("response", {}), stats, keys), f"warming is {state}"))


def findings(limits: Mapping[str, Any], stats: Mapping[str, Any], keys: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """PURE. Lines for a person, from the cache's settings, its figures and some of its entries."""
    entries = int(stats["entries"])
    room = max(stats["memory_usage_mb"] / limits["max_size_mb"], entries / limits["max_entries"])
    expired, evictions = int(stats["expired_entries"]), int(stats["evictions"])
    used = sum(1 for key in keys if key["hits"])
    yield f"hit rate {_share(stats['hit_rate'])} of the latest look-ups"
    yield f"lifetime {format_duration(limits['ttl'])}: {expired} of {entries} entries are past it"
    yield f"room {_share(room)} in use ({limits['strategy']}), {evictions} evicted since the files were made"
    yield f"{used} of {len(keys)} entries looked at were ever asked for again"
    if not entries:
        yield "→ the cache is empty: after a flush or a change of its version it fills by itself"
    elif keys and used < (1 - _CHURN) * len(keys):
        yield "→ requests hardly repeat: look for a time, an id or a name in prompts that makes each a key of its own"
    if entries and expired > _SHORT_LIVED * entries:
        yield "→ many answers end before they are asked for again: cache.ttl may be too short"
    if room > _CROWDED and evictions:
        yield "→ answers go to make room: cache.max_size_mb or cache.max_entries may be too small"


def _share(ratio: float | None) -> str:
    return "unknown" if ratio is None else f"{ratio:.0%}"
