"""The caches: limits, strategy, compression, memory pressure, warming, shared namespaces."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from proxy.settings.base import Duration, Section, expect_once

NAMESPACE_PATTERN = r"^[A-Za-z0-9_.-]{1,64}$"


def _switch(value: object) -> object:
    """`compression: true` is short for `compression: {enabled: true}`."""
    return {"enabled": value} if isinstance(value, bool) else value


def _named(value: object) -> object:
    """A name alone is a namespace for every caller."""
    return {"name": value} if isinstance(value, str) else value


class Compression(Section):
    """How answers are kept; compressed ones count with their compressed size."""

    enabled: bool = False
    algorithm: Literal["gzip", "zlib"] = "gzip"
    min_size_kb: float = Field(1.0, ge=0)
    """Smaller answers are kept as they are."""
    level: int = Field(6, ge=1, le=9)


class MemoryPressure(Section):
    """What is given up when memory runs short: of the machine, or of the service's own cgroup."""

    enabled: bool = True
    threshold: float = Field(80.0, gt=0, le=100)
    """Per cent in use above which a batch goes each second, down to a tenth of the cache's limits."""
    emergency: float = Field(95.0, gt=0, le=100)
    """Per cent above which batches go without a pause, down to nothing."""
    eviction_batch_size: int = Field(100, ge=1)


class Warming(Section):
    """Popular requests are asked again before their answers expire. Costs money, and is therefore off."""

    enabled: bool = False
    interval: Duration = 300.0
    preload_popular: bool = True
    """Whether the first round comes soon after the start instead of an interval later."""
    top: int = Field(20, ge=1, le=1000)
    """At most so many requests are asked in one round, the most popular first."""
    max_size_mb: float = Field(16.0, gt=0)
    """Of the requests that are remembered, and of the answers that one round may bring."""

    @field_validator("interval")
    @classmethod
    def _not_incessant(cls, seconds: float) -> float:
        if seconds < 1.0:
            raise ValueError("expected an interval of at least 1s")
        return seconds


class SharedNamespace(Section):
    """A namespace whose answers go to every caller that names it by `x-cache-namespace`."""

    name: str = Field(pattern=NAMESPACE_PATTERN)
    keys: tuple[str, ...] | None = Field(None, min_length=1)
    """Ids of the keys that may name it; None: all."""


class CacheLimits(Section):
    """One cache, shared by all workers."""

    enabled: bool = True
    max_size_mb: float = Field(64.0, gt=0)
    max_entries: int = Field(10_000, ge=1)
    max_entry_kb: float = Field(1024.0, gt=0)
    ttl: Duration = 1800.0
    ttl_jitter: float = Field(0.1, ge=0, lt=1)
    """Lifetimes lie between `ttl` less and more this share, so that what was stored together does not expire so."""
    strategy: Literal["lru", "lfu"] = "lru"
    """What goes first to make room: what was used longest ago, or least often (with ageing)."""
    eviction_threshold: float = Field(0.8, gt=0, le=1)
    """Share of `max_size_mb` or `max_entries` above which a write evicts entries first, as `strategy` says."""
    eviction_batch_size: int = Field(100, ge=1)
    compression: Annotated[Compression, BeforeValidator(_switch)] = Compression()
    memory_pressure: MemoryPressure = MemoryPressure()
    version: str = Field("", max_length=100)
    """Part of every key: a new one, with a deployment say, leaves all older answers behind."""
    warming: Warming = Warming()


class ResponseCache(CacheLimits):
    """`cache`: for every request that is no summary."""

    shared_namespaces: tuple[Annotated[SharedNamespace, BeforeValidator(_named)], ...] = ()
    """Of both caches. Every other namespace is private to the key that names it."""

    @field_validator("shared_namespaces")
    @classmethod
    def _names_differ(cls, shared: tuple[SharedNamespace, ...]) -> tuple[SharedNamespace, ...]:
        expect_once("shared namespace", [namespace.name for namespace in shared])
        return shared


class SummaryCache(CacheLimits):
    """`summary_cache`: for requests with the header `x-cache: summary`, with `summary` as their `metadata.purpose`, or
    for one of `models`. Without it they go to `cache`."""

    max_size_mb: float = Field(32.0, gt=0)
    max_entries: int = Field(5_000, ge=1)
    ttl: Duration = 3600.0
    strategy: Literal["lru", "lfu"] = "lfu"
    models: tuple[str, ...] = ()
    """Models, as callers name them, that do nothing but summarise."""
