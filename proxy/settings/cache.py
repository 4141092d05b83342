"""The caches: limits, strategy, compression, warming."""

from __future__ import annotations

from pydantic import Field

from proxy.settings.base import Duration, Section


class CacheLimits(Section):
    """One cache, shared by all workers."""

    enabled: bool = True
    max_size_mb: float = Field(64.0, gt=0)
    max_entries: int = Field(10_000, ge=1)
    max_entry_kb: float = Field(1024.0, gt=0)
    ttl: Duration = 1800.0
    eviction_threshold: float = Field(0.8, gt=0, le=1)
    """Share of `max_size_mb` or `max_entries` above which a write evicts entries first, as `strategy` says."""
    eviction_batch_size: int = Field(100, ge=1)
