"""What gateways need before anybody asks them: memory of a worker, and time from exec to being ready."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.bench.figures import Aim, BenchError, Figure
from tests.bench.lab import BIN, get, lab, only
from tests.bench.machine import family, pss_mib, uss_mib
from tests.bench.peers import gateways

_WORKER = Aim(45.0, "figure")
_START = Aim(600.0, "figure")
_PATIENCE_SECONDS = 30.0
_EVERY_SECONDS = 0.001


def at_rest(quick: bool, peers: Path | None) -> Iterator[Figure]:
    """Both figures of ours beside each gateway's."""
    rounds, idle_seconds = (2, 3.0) if quick else (5, 10.0)
    with lab() as place:
        upstream = place.upstream()
        proxy = place.proxy("llm-proxy", only(upstream), 2)
        started = gateways(place, peers, upstream)
        time.sleep(idle_seconds)
        ours = max(uss_mib(pid) for pid in proxy.workers())
        for number, (name, target) in enumerate(started.items()):
            theirs = None if target is None else max(uss_mib(pid) for pid in target.pids)
            aim = None if number else _WORKER
            yield Figure("Memory when idle", "one worker, USS", ours, "MiB", name, theirs, aim)
            all_of_it = None if target is None else pss_mib(target.pids)
            what = "all processes, ours with 2 workers, PSS"
            yield Figure("Memory when idle", what, pss_mib(family(proxy.pid)), "MiB", name, all_of_it)
    starts = median(cold_start() for _ in range(rounds)) * 1000
    for number, (name, target) in enumerate(started.items()):
        theirs = None if target is None or target.start_seconds is None else target.start_seconds * 1000
        aim = None if number else _START
        yield Figure("Cold start", "from exec to ready, 2 workers", starts, "ms", name, theirs, aim)


def cold_start() -> float:
    """Seconds from exec of `llm-proxy run` to the first 200 of /health/ready."""
    with lab() as place:
        file, port = place.configure_proxy("llm-proxy", only(place.upstream()), workers=2)
        began = time.perf_counter()
        place.start("llm-proxy", [BIN / "llm-proxy", "run", "--config", file])
        while not _ready(port):
            if time.perf_counter() - began > _PATIENCE_SECONDS:
                raise BenchError(f"llm-proxy is not ready after {_PATIENCE_SECONDS:g} s")
            time.sleep(_EVERY_SECONDS)
        return time.perf_counter() - began


def _ready(port: int) -> bool:
    try:
        return get(port, "/health/ready")[0] == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
