"""The soak: hours in minutes. Half of llm-proxy's capacity with churn, and a verdict on leaks and lost requests."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.bench.churn import CONNECTIONS, SAMPLES, Churn, Record, Sample
from tests.bench.figures import BenchError
from tests.bench.lab import Lab, Providers, Proxy, free_port, lab, until
from tests.bench.load import Headers, Kind, run
from tests.bench.machine import MIB, family, living_below
from watchdog.core.trend import mann_kendall, theil_sen

_KEYS = 5
_WARM_UP_SHARE = 0.4
"""Of the soak: pools, caches and the allocator fill up first, which is no leak."""
_SIGNIFICANT = 0.01
_IDLE_SECONDS = 60.0
_FAULTS_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Kept:
    """Something that a worker holds and that must not grow. Growth counts if it is significant, faster than `hourly`,
    and over the window more than `step`, which comes and goes with the load."""

    name: str
    unit: str
    scale: float
    look: Callable[[Sample], float]
    hourly: float
    step: float


_KEPT = (
    Kept("memory of its own", "MiB", MIB, lambda sample: sample.bytes, 8 * MIB, 2 * MIB),
    Kept("descriptors", "", 1, lambda sample: sample.descriptors, 20, 8),
    Kept("tasks", "", 1, lambda sample: sample.tasks, 20, 8),
)
_SPARE = {"descriptors": 8, "tasks": 2}
"""More than before the load that an idle worker may hold after it: a few pooled connections."""


def soak(minutes: float) -> int:
    """Runs it and prints the verdict: 0, or 1 for a leak, a lost request or a process left behind."""
    seconds = minutes * 60
    with lab() as place:
        demos: Providers = [{"name": name, "kind": "local", "port": free_port()} for name in ("primary", "secondary")]
        tokens = [secrets.token_urlsafe(24) for _ in range(_KEYS)]
        proxy = place.proxy("llm-proxy", demos, workers=2, changes=_callers(place, tokens))
        keys: tuple[Headers, ...] = tuple((("authorization", f"Bearer {token}"),) for token in tokens)
        capacity = run(place.root, Kind.PROXIED, proxy.port, CONNECTIONS, 5, keys[0]).rate
        until("the workers are idle", lambda: proxy.in_flight() == 0, _IDLE_SECONDS)
        before = {health["pid"]: health for health in proxy.health()}
        print(f"capacity {capacity:,.0f} requests/s; {minutes:g} minutes at half of it, with churn", flush=True)
        churn = Churn(place.root, proxy, demos[0]["port"], capacity / 2, keys)
        asyncio.run(churn.run(seconds))
        record = churn.record
        lost = [f"{what} ({times} times)" for what, times in record.lost.most_common(_FAULTS_SHOWN)]
        faults = [*lost, *growths(record), *_left_open(proxy, before), *_left_behind(place, proxy)]
    print(", ".join(f"{count:,} {what}" for what, count in sorted(record.done.items())))
    print("\n".join(f"FAULT {fault}" for fault in faults) or "no request lost, nothing leaked")
    return 1 if faults else 0


def _callers(place: Lab, tokens: Sequence[str]) -> dict[str, object]:
    admin = {"id": "admin", "role": "admin", "key_file": str(place.root / "admin.key")}
    users = [
        {"id": f"user-{number}", "sha256": hashlib.sha256(token.encode()).hexdigest()}
        for number, token in enumerate(tokens)
    ]
    return {
        "auth": {"anonymous_loopback": "none", "keys": [admin, *users]},
        "limits": {"per_key": {"requests": 10**9, "tokens": 10**12}},
    }


def growths(record: Record) -> list[str]:
    """Workers whose memory, descriptors or tasks still grow for certain after the warm-up. BenchError if no worker
    lived for long enough to tell."""
    found, judged = [], 0
    end = max((samples[-1].at for samples in record.samples.values()), default=0.0)
    for pid, samples in record.samples.items():
        late = [sample for sample in samples if sample.at >= end * _WARM_UP_SHARE]
        if len(late) < SAMPLES * (1 - _WARM_UP_SHARE) / 2:
            continue
        judged += 1
        span = late[-1].at - late[0].at
        for kept in _KEPT:
            values = [kept.look(sample) for sample in late]
            trend = mann_kendall(values)
            line = theil_sen([(sample.at, value) for sample, value in zip(late, values, strict=True)])
            slope = line.slope if line else 0.0
            hourly = f"{slope * 3600 / kept.scale:+.2f} {kept.unit}".strip() + "/h"
            print(
                f"worker {pid}: {kept.name} {values[0] / kept.scale:.1f} to {values[-1] / kept.scale:.1f} {kept.unit}, "
                f"{hourly}, tau {trend.tau:.2f}, p {trend.p:.3g}"
            )
            certain = trend.tau > 0 and trend.p < _SIGNIFICANT
            if certain and slope * 3600 > kept.hourly and slope * span > kept.step:
                found.append(f"worker {pid} leaks {kept.name}: {hourly}")
    if not judged:
        raise BenchError("no worker lived for long enough to be judged")
    return found


def _left_open(proxy: Proxy, before: dict[int, dict[str, int]]) -> list[str]:
    """Workers that hold more descriptors or tasks than before the load, beyond a few."""

    def excess() -> list[str]:
        now = [health for health in proxy.health() if health["pid"] in before]
        return [
            f"worker {health['pid']} holds {health[kept]} {kept}, {before[health['pid']][kept]} before the load"
            for health in now
            for kept, spare in _SPARE.items()
            if health[kept] > before[health["pid"]][kept] + spare
        ]

    with contextlib.suppress(BenchError):
        until("all is closed", lambda: not excess(), _IDLE_SECONDS, 0.5)
    return excess()


def _left_behind(place: Lab, proxy: Proxy) -> list[str]:
    """Processes of llm-proxy that its master has lost."""
    orphans = set(living_below(place.root)).difference(family(proxy.pid))
    return [f"process {pid} was left behind" for pid in sorted(orphans)]
