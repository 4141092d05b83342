"""What the health endpoints and the JSON metrics say. Figures cover the whole service, not the worker that answers."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from proxy import __version__, metrics
from proxy.clock import Clock
from proxy.exposition import quantile
from proxy.memory import footprint, resident_bytes
from proxy.metrics import Families
from proxy.settings import Settings

LATENCY = "http_request_duration_seconds"
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_DEGRADED_PERCENT, _UNHEALTHY_PERCENT = 90.0, 95.0
_WINDOW_SECONDS = 300.0
_SNAPSHOT_SECONDS = 10.0
_RATE_SECONDS = 60.0
_CPU_SMOOTHING = 0.1
"""Share of the newest second in the CPU figure: a mean over some ten seconds, so that a burst is no illness."""
_MB = 1024 * 1024
_HEALTH_ROUTES = ("/health", "/metrics")


class GatewayHealth(Protocol):
    """The part of the gateway that health asks."""

    def usable(self) -> bool: ...
    def providers_health(self) -> dict[str, dict[str, Any]]: ...
    def cache_health(self) -> dict[str, Any]: ...
    def cache_metrics(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Latencies counted by the whole service up to `at` (monotonic): one count per bucket and above, and their sum."""

    at: float
    counts: tuple[float, ...]
    sum_seconds: float


def latency_snapshot(families: Families, at: float) -> Snapshot:
    """The sum over the routes that callers use; health and metrics would drown them."""
    counts, total = [0.0] * (len(LATENCY_BUCKETS) + 1), 0.0
    family = families.get(LATENCY)
    for (route,), cells in (family.series if family else {}).items():
        if not route.startswith(_HEALTH_ROUTES):
            counts = [count + cell for count, cell in zip(counts, cells, strict=False)]
            total += cells[-1]
    return Snapshot(at, tuple(counts), total)


class Window:
    """Snapshots of the last five minutes, so that figures tell of now and not of last month."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: deque[Snapshot] = deque()

    def due(self) -> bool:
        """Whether a snapshot should be taken."""
        return not self._kept or self._clock.monotonic() - self._kept[-1].at >= _SNAPSHOT_SECONDS

    def take(self, families: Families) -> Snapshot:
        """Takes one, forgets those that are too old, and returns it."""
        newest = latency_snapshot(families, self._clock.monotonic())
        if self.due():
            self._kept.append(newest)
        while len(self._kept) > 1 and self._kept[1].at <= newest.at - _WINDOW_SECONDS:
            self._kept.popleft()
        return newest

    def figures(self, newest: Snapshot) -> dict[str, Any]:
        """Mean and percentiles over five minutes (null without requests) and the rate over one, or since the start."""
        oldest = self._kept[0]
        counts = [new - old for new, old in zip(newest.counts, oldest.counts, strict=True)]
        number, total = sum(counts), newest.sum_seconds - oldest.sum_seconds
        minute = next((kept for kept in self._kept if kept.at >= newest.at - _RATE_SECONDS), oldest)
        span = newest.at - minute.at
        return {
            "avg_response_time_ms": round(total / number * 1000, 3) if number > 0 else 0.0,
            "response_time_percentiles": {
                name: _milliseconds(quantile(q, LATENCY_BUCKETS, counts))
                for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
            },
            "requests_per_second": round((sum(newest.counts) - sum(minute.counts)) / span, 3) if span > 0 else 0.0,
        }


class Health:
    """Answers for one worker; `started` is its start on the monotonic clock."""

    def __init__(
        self,
        settings: Settings,
        gateway: GatewayHealth,
        ledger: Callable[[], dict[str, Any]],
        clock: Clock,
        metrics_dir: Path,
        restraints: Callable[[], list[str]],
    ) -> None:
        """`restraints` tells what an operator holds back now."""
        self._ledger = ledger
        self._restraints = restraints
        self._settings = settings
        self._gateway = gateway
        self._clock = clock
        self._metrics_dir = metrics_dir
        self._started = clock.monotonic()
        self._window = Window(clock)
        self._cpu_before = _cpu_times()
        self._cpu_percent = 0.0

    def uptime(self) -> float:
        """Seconds since this worker started."""
        return round(self._clock.monotonic() - self._started, 3)

    def tick(self) -> None:
        """Called every second: measures the machine's CPU and keeps the window filled."""
        before, after = self._cpu_before, _cpu_times()
        if after[1] > before[1]:
            now = 100.0 * (after[0] - before[0]) / (after[1] - before[1])
            self._cpu_percent += (now - self._cpu_percent) * _CPU_SMOOTHING
            self._cpu_before = after
        if self._window.due():
            self._window.take(metrics.read(self._metrics_dir))

    def summary(self) -> dict[str, Any]:
        """`/health`."""
        status, reasons = self.judged()
        return {
            "status": status,
            "reasons": reasons,
            "restraints": self._restraints(),
            "version": __version__,
            "uptime_seconds": self.uptime(),
            "memory": {"rss_mb": round(resident_bytes() / _MB, 1), "percent": _memory_percent()},
        }

    def judged(self) -> tuple[str, list[str]]:
        """healthy; degraded while a provider, the cache or the ledger is not well; unhealthy while no provider can be
        used. And what is not well."""
        reasons = [
            f"provider {name} is {provider['status']}"
            for name, provider in self._gateway.providers_health().items()
            if provider["status"] != "healthy"
        ]
        if self._gateway.cache_health()["status"] == "critical":
            reasons.append("the cache is nearly full")
        if self._ledger()["status"] == "degraded":
            reasons.append("the ledger's database takes no rows; they wait on disk")
        if not self._gateway.usable():
            return "unhealthy", ["no provider can be used", *reasons]
        return "degraded" if reasons else "healthy", reasons

    def quick(self) -> dict[str, Any]:
        """`/health/quick`: the machine's memory and CPU; above 90 % degraded, above 95 % unhealthy."""
        memory, cpu = _memory_percent(), self._cpu_percent
        return {"status": _judge(max(memory, cpu)), "memory_percent": memory, "cpu_percent": round(cpu, 1)}

    def detailed(self) -> dict[str, Any]:
        """`/health/detailed`: everything at once."""
        own = footprint()
        overall, reasons = self.judged()
        quick = self.quick()
        worst = max(overall, quick["status"], key=("healthy", "degraded", "unhealthy").index)
        return {
            "overall": {"status": worst, "reasons": reasons, "restraints": self._restraints()},
            "application": {
                "status": overall,
                "version": __version__,
                "uptime_seconds": self.uptime(),
                "pid": os.getpid(),
                "memory": {"rss_mb": round(own.rss_bytes / _MB, 1), "uss_mb": round(own.uss_bytes / _MB, 1)},
            },
            "providers": self._gateway.providers_health(),
            "cache": self._gateway.cache_health(),
            "ledger": self._ledger(),
            "system": {**quick, "load_average": list(os.getloadavg()), "cpus": os.cpu_count()},
        }

    def metrics_document(self) -> dict[str, Any]:
        """`/metrics` as JSON."""
        families = metrics.read(self._metrics_dir)
        newest = self._window.take(families)
        in_flight = _total(families, "http_requests_in_flight")
        capacity = self._settings.max_in_flight * self._settings.workers
        providers = self._gateway.providers_health()
        return {
            "performance": {
                **self._window.figures(newest),
                "queue_depth": int(in_flight),
                "window_seconds": _WINDOW_SECONDS,
            },
            "http": {
                "requests_total": int(_total(families, "http_requests_total")),
                "requests_by_status": _by_label(families, "http_requests_total", "status"),
            },
            "http_client": {"pool_utilization": round(in_flight / capacity, 6), "pool_size": capacity},
            "cache": self._gateway.cache_metrics(),
            "rate_limiting": {
                "providers": {name: {"remaining": item["rate_limit_remaining"]} for name, item in providers.items()}
            },
            "ledger": self._ledger(),
            "security": {"failed_auth_attempts": int(_total(families, "auth_failures_total"))},
            "workers": {
                "serving": int(_total(families, "llm_proxy_workers_serving")),
                "starts_total": int(_total(families, "llm_proxy_worker_starts_total")),
            },
        }


def _judge(percent: float) -> str:
    if percent > _UNHEALTHY_PERCENT:
        return "unhealthy"
    return "degraded" if percent > _DEGRADED_PERCENT else "healthy"


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _total(families: Families, name: str) -> float:
    family = families.get(name)
    return sum(cells[0] for cells in family.series.values()) if family else 0.0


def _by_label(families: Families, name: str, label: str) -> dict[str, int]:
    family = families.get(name)
    found: dict[str, int] = {}
    if family is not None:
        at = family.labels.index(label)
        for values, cells in family.series.items():
            found[values[at]] = found.get(values[at], 0) + int(cells[0])
    return found


def _memory_percent() -> float:
    """The machine's memory that is not available, in per cent (proc(5), meminfo: MemAvailable)."""
    rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (float(rows[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return round(100.0 * (1.0 - available / total), 1)


def _cpu_times() -> tuple[float, float]:
    """(busy, total) ticks of all CPUs since boot (proc(5), stat); idle and iowait are not busy."""
    ticks = [float(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
