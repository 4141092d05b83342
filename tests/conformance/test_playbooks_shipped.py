"""The conditions of shipped playbooks at work: which rungs a situation calls for, by what the probes measure in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from watchdog.core.model import Sample, labels_of
from watchdog.metrics.engine import RuleEngine
from watchdog.metrics.rules import load_rules
from watchdog.metrics.series import SeriesStore
from watchdog.playbooks.schema import fill, load_playbooks

CONFIG = Path(__file__).parents[2] / "config"
PLAYBOOKS = load_playbooks(sorted((CONFIG / "playbooks").glob("*.yaml")))
T0 = 1_700_000_000.0
STEP, STEPS = 10.0, 20
GIB = 2.0**30
Series = dict[str, float]
Scene = Callable[[int], Series]


def scene(**changes: float | Callable[[int], float]) -> Scene:
    """A host of two processors with a proxy of two workers and two providers, all well, but for the changes; a name is
    the metric's, with its labels after `__`, as in `provider_fault__provider__p__class__auth`."""

    def at(step: int) -> Series:
        known: Series = {
            "node_memory_MemTotal_bytes": 8 * GIB,
            "node_memory_MemAvailable_bytes": 4 * GIB,
            "cache_usage_ratio": 0.3,
            "cache_longest_expired_seconds": 0.0,
            "cache_damaged_total__cache__response": 0.0,
            "cache_hits_total__cache__response": 90.0 * step,
            "cache_misses_total__cache__response": 10.0 * step,
            "cache_warming_enabled": 1.0,
            "cache_warming_paused": 0.0,
            "providers_usable": 2.0,
            "provider_circuit_open__provider__p": 0.0,
            "provider_circuit_open__provider__q": 0.0,
            "http_requests_total__status__200__route__chat": 50.0 * step,
            **{f"proxywatch_worker_cpu_seconds_total__worker__{w}": 0.5 * step for w in "01"},
            **{f"proxywatch_worker_resident_bytes__worker__{w}": 0.1 * GIB for w in "01"},
            **{f"node_cpu_seconds_total__cpu__{cpu}__mode__idle": 9.0 * step for cpu in "01"},
            **{f"node_cpu_seconds_total__cpu__{cpu}__mode__user": 1.0 * step for cpu in "01"},
        }
        for name, value in changes.items():
            known[name] = value(step) if callable(value) else value
        return known

    return at


def samples(series: Series) -> list[Sample]:
    found = []
    for name, value in series.items():
        metric, *words = name.split("__")
        labels = dict(zip(words[::2], words[1::2], strict=True))
        if not metric.startswith("node_"):
            labels["service"] = "llm-proxy"
        found.append(Sample(metric, value, labels_of(labels)))
    return found


def rungs(playbook: str, labels: dict[str, str], lasting: Scene) -> list[str]:
    """Those whose `when` holds after the scene has lasted for some minutes."""
    store = SeriesStore()
    groups = [group for file in sorted((CONFIG / "rules").glob("*.yaml")) for group in load_rules(file)]
    engine, now = RuleEngine(groups, store), T0
    for step in range(STEPS):
        now = T0 + step * STEP
        store.ingest_scrape("probe", samples(lasting(step)), now, labels_of(job="probe"))
        engine.evaluate_due(now)

    def holds(expression: str) -> bool:
        result: Any = engine.query(fill(expression, labels), now)
        return bool(result)

    return [rung.rung for rung in PLAYBOOKS[playbook].ladder if not rung.when or holds(rung.when)]


SHORT = {"node_memory_MemAvailable_bytes": GIB}
HOT = {"proxywatch_worker_cpu_seconds_total__worker__1": lambda step: 9.9 * step}
BOTH_HOT = {**HOT, "proxywatch_worker_cpu_seconds_total__worker__0": lambda step: 9.9 * step}
HOST_HOT = {f"node_cpu_seconds_total__cpu__{cpu}__mode__idle": lambda step: 0.1 * step for cpu in "01"} | {
    f"node_cpu_seconds_total__cpu__{cpu}__mode__user": lambda step: 9.9 * step for cpu in "01"
}
WORKER = {"service": "llm-proxy", "worker": "1"}
UP, WHOLE = {"proxywatch_worker_up__worker__1": 1.0}, {"proxywatch_workers_serving": 2.0}
SERVES = {"proxywatch_worker_serving__worker__1": 1.0, "proxywatch_worker_responsive__worker__1": 1.0}
CACHE, PROVIDER = {"service": "llm-proxy"}, {"service": "llm-proxy", "provider": "p"}


def fault(name: str, **keys: float) -> dict[str, float]:
    counted = {f"provider_keys__provider__p__state__{state}": number for state, number in keys.items()}
    return {f"provider_fault__provider__p__class__{name}": 1.0, **counted}


SITUATIONS: dict[str, tuple[str, dict[str, str], Scene, list[str]]] = {
    "a worker's process has gone": (
        "restore-worker", WORKER, scene(proxywatch_worker_up__worker__1=0.0, proxywatch_workers_serving=1.0),
        ["supervisor", "recycle"],
    ),
    "a worker was replaced long ago, and the alert is not over yet": (
        "restore-worker", WORKER, scene(**UP, **WHOLE, **SERVES, proxywatch_worker_start_time_seconds__worker__1=T0),
        ["supervisor", "recycle"],
    ),
    "a worker has just begun to serve, and nobody has asked it yet": (
        "restore-worker", WORKER, scene(**UP, **WHOLE, proxywatch_worker_serving__worker__1=1.0),
        ["supervisor", "recycle"],
    ),
    "a worker serves and does not answer": (
        "restore-worker", WORKER,
        scene(**UP, **WHOLE, **{**SERVES, "proxywatch_worker_responsive__worker__1": 0.0},
              proxywatch_worker_start_time_seconds__worker__1=T0),
        ["recycle"],
    ),
    "a worker leaks": (
        "stop-leak", WORKER, scene(**UP, proxywatch_workers_expected=2.0), ["collect-garbage", "recycle"],
    ),
    "a worker leaks for the third time within a day": (
        "stop-leak", WORKER,
        scene(**UP, proxywatch_workers_expected=2.0, **{
            f"proxywatch_healed_runs__playbook__stop-leak__subject__worker:llm-proxy/{w}": 1.0 for w in "01"
        }),
        ["collect-garbage", "recycle-younger", "recycle"],
    ),
    "a process of another service leaks": (
        "stop-leak", {"service": "shop", "worker": "0"}, scene(**UP, proxywatch_workers_expected=2.0),
        ["collect-garbage", "restart"],
    ),
    "a key is refused and a spare is there": (
        "provider-failover", PROVIDER, scene(**fault("auth", active=0, retiring=0, spare=1, dead=1)),
        ["rotate-key", "breaker", "open-circuit", "drain"],
    ),
    "a key is refused and another one works": (
        "provider-failover", PROVIDER, scene(**fault("auth", active=1, retiring=0, spare=1, dead=1)),
        ["breaker", "open-circuit", "drain"],
    ),
    "a limit, without a spare": (
        "provider-failover", PROVIDER, scene(**fault("quota", active=0, retiring=0, spare=0, cooldown=2)),
        ["lower-rate", "breaker", "open-circuit", "drain"],
    ),
    "an outage of a provider without keys": (
        "provider-failover", PROVIDER, scene(**fault("outage")), ["breaker", "open-circuit", "drain"],
    ),
    "slow, and another one is well": ("provider-failover", PROVIDER, scene(), ["drain"]),
    "slow, and no other is well": (
        "provider-failover", PROVIDER, scene(provider_circuit_open__provider__q=1.0), [],
    ),
    "misses": ("cache-recovery", CACHE, scene(), ["compact", "warm"]),
    "misses while memory is short": ("cache-recovery", CACHE, scene(**SHORT), ["pause-warming", "compact"]),
    "misses, and warming is off": ("cache-recovery", CACHE, scene(cache_warming_enabled=0.0), ["compact"]),
    "damage goes on": (
        "cache-recovery", CACHE, scene(cache_damaged_total__cache__response=lambda step: 1.0 * step),
        ["compact", "flush", "warm"],
    ),
    "what is over stays": (
        "cache-recovery", CACHE, scene(cache_longest_expired_seconds=90_000.0), ["compact", "flush", "warm"],
    ),
    "one hot worker": (
        "relieve-cpu", WORKER, scene(**HOT), ["profile", "pause-warming", "recycle-hot-worker"],
    ),
    "all workers hot": (
        "relieve-cpu", WORKER, scene(**BOTH_HOT, **HOST_HOT), ["profile", "pause-warming", "shed-load"],
    ),
    "the host is busy with our requests": (
        "relieve-cpu", {}, scene(**BOTH_HOT, **HOST_HOT), ["profile", "pause-warming", "shed-load"],
    ),
    "the host is busy with something else": (
        "relieve-cpu", {}, scene(**HOST_HOT, cache_warming_paused=1.0), [],
    ),
    "the host is busy and nobody asks": (
        "relieve-cpu", {}, scene(**BOTH_HOT, **HOST_HOT, http_requests_total__status__200__route__chat=7.0),
        ["profile", "pause-warming"],
    ),
    "a full cache": (
        "relieve-memory", CACHE, scene(cache_usage_ratio=0.96), ["evict-expired", "evict-half", "flush"],
    ),
    "memory is short and the workers hold it": (
        "relieve-memory", {},
        scene(**SHORT, **{f"proxywatch_worker_resident_bytes__worker__{w}": GIB for w in "01"}),
        ["collect-garbage", "recycle-workers", "restart"],
    ),
    "memory is short and somebody else holds it": ("relieve-memory", {}, scene(**SHORT), ["collect-garbage"]),
    "tasks wait for memory although some is left": (
        "relieve-memory", {},
        scene(pressure_stalled_ratio__resource__memory__kind__some__window__10s=0.4, cache_usage_ratio=0.9),
        ["collect-garbage", "evict-expired", "evict-half", "flush"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_situation_calls_for_exactly_these_rungs(name: str) -> None:
    """The ladder as it would be climbed there, if no rung helped."""
    playbook, labels, lasting, expected = SITUATIONS[name]
    assert rungs(playbook, labels, lasting) == expected


def test_what_cuts_requests_asks_a_person_first() -> None:
    """Of the ladder against want of memory only the restart is asked for; all that is gentler is done at once."""
    asked = [rung.rung for rung in PLAYBOOKS["relieve-memory"].ladder if rung.autonomy == "approve"]
    assert asked == ["restart"] == [PLAYBOOKS["relieve-memory"].ladder[-1].rung]


@pytest.mark.parametrize("name", ["provider-failover"])
def test_a_remote_fault_restarts_nothing_here(name: str) -> None:
    """No rung for a provider has a step that restarts or recycles anything."""
    steps = [str(step.model_dump()["kind"]) for rung in PLAYBOOKS[name].ladder for step in rung.all_steps]
    assert set(steps) == {"rotate_provider_key", "lower_rate", "open_circuit"}
