"""What our programs need to be there at all: memory, time to start, time of one command."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.bench.figures import Aim, BenchError, Figure
from tests.bench.lab import BIN, Proxy, lab, only
from tests.bench.machine import children, rss_mib, uss_mib

_WATCHDOG_MIB = 50.0
_WORKER_MIB = 45.0
_STATUS_MS = 300.0


def measure(quick: bool) -> Iterator[Figure]:
    """All rows of this part."""
    rounds, idle_seconds = (2, 5.0) if quick else (5, 20.0)
    part = "Memory when idle"
    with lab() as place:
        file, port = place.configure_proxy("llm-proxy", only(place.upstream()), workers=2)
        daemon = place.watchdog(file, port)
        time.sleep(idle_seconds)
        aim = Aim(_WATCHDOG_MIB, "figure")
        note = f"as shipped, after {idle_seconds:g} s"
        yield Figure(part, "proxywatch, USS", uss_mib(daemon.pid), "MiB", aim=aim, note=note)
        yield Figure(part, "proxywatch, RSS", rss_mib(daemon.pid), "MiB", note=note)
        proxy = Proxy(file, port, place.root / "llm-proxy/run/master.sock", 0)
        master = int(proxy.ask("GET", "/status")["pid"])
        worker = max(uss_mib(pid) for pid in proxy.workers())
        yield Figure(part, "a worker of llm-proxy, USS", worker, "MiB", aim=Aim(_WORKER_MIB, "figure"))
        yield Figure(part, "the master of llm-proxy, USS", uss_mib(master), "MiB")
        others = [pid for pid in children(master) if pid not in proxy.workers()]
        if others:
            yield Figure(part, f"its {len(others)} other processes, USS", sum(map(uss_mib, others)), "MiB")
        commands = [_status(place.root / "proxywatch.yaml", place.root) for _ in range(2 * rounds)]
        aim = Aim(_STATUS_MS, "figure")
        yield Figure("Start", "proxywatch status, start included", median(commands) * 1000, "ms", aim=aim)


def _status(file: Path, directory: Path) -> float:
    began = time.perf_counter()
    argv: list[str | Path] = [BIN / "proxywatch", "--config", file, "status"]
    said = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if said.returncode:
        raise BenchError(f"proxywatch status exits {said.returncode}: {said.stderr[-300:]}{said.stdout[-300:]}")
    return took
