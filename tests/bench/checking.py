"""CPU of checking: the same ten checks every second, measured and judged, by proxywatch and by Monit side by side.

Four processes by pidfile, four URLs, the system (load, CPU, memory) and the filesystems. proxywatch's `system` probe
does the last two in one reading; its rules judge what Monit's control file judges, with the same thresholds.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from tests.bench.figures import Aim, Figure
from tests.bench.lab import Lab, lab
from tests.bench.machine import cpu_seconds, peer, rss_mib, uss_mib

_TARGETS = 4
_CHECKS = 10
_SETTLE_SECONDS = 5.0
_MONITRC_HEAD = """
set daemon 1
set pidfile {root}/monit.pid
set idfile {root}/monit.id
set statefile {root}/monit.state
set log {root}/monit-own.log
check system machine
  if loadavg (1min) > 1000 then alert
  if cpu usage > 99.9% for 60 cycles then alert
  if memory usage > 99.9% then alert
check filesystem root with path /
  if space usage > 99.9% then alert
  if inode usage > 99.9% then alert
"""
_MONITRC_TARGET = """
check process target-{index} with pidfile {root}/target-{index}.pid
  if cpu > 99.9% for 60 cycles then alert
  if memory > 2 GB then alert
check host url-{index} with address 127.0.0.1
  if failed port {port} protocol http request "/health/live" then alert
"""
_RULES = {
    "TargetDown": "proxywatch_process_up == 0",
    "TargetBusy": "rate(proxywatch_process_cpu_seconds_total[1m]) > 0.999",
    "TargetLarge": "proxywatch_process_resident_bytes > 2e9",
    "UrlDown": 'probe_success{kind="http"} == 0',
    "LoadHigh": "node_load1 > 1000",
    "CpuHigh": 'avg without (cpu) (rate(node_cpu_seconds_total{mode="idle"}[1m])) < 0.001',
    "MemoryHigh": "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes > 0.999",
    "SpaceHigh": "1 - node_filesystem_avail_bytes / (node_filesystem_size_bytes > 0) > 0.999",
    "InodesHigh": "1 - node_filesystem_files_free / (node_filesystem_files > 0) > 0.999",
}


def measure(quick: bool) -> Iterator[Figure]:
    """All rows of this part."""
    seconds = 10.0 if quick else 60.0
    with lab() as place:
        ports = [_target(place, index) for index in range(_TARGETS)]
        ours = place.start_watchdog(_watchdog_config(place, ports))
        theirs = _monit(place, ports)
        daemons = [ours] if theirs is None else [ours, theirs]
        time.sleep(_SETTLE_SECONDS)
        before = [cpu_seconds([daemon.pid]) for daemon in daemons]
        time.sleep(seconds)
        used, *beside = (cpu_seconds([daemon.pid]) - was for daemon, was in zip(daemons, before, strict=True))
        monit = beside[0] if beside else None
        part, peer_name = "Ten checks a second", "Monit"
        yield Figure(
            part,
            "CPU per minute",
            used / seconds * 60 * 1000,
            "ms",
            peer_name,
            None if monit is None else monit / seconds * 60 * 1000,
            Aim(1.0, "ratio"),
        )
        checks = seconds * _CHECKS
        yield Figure(
            part,
            "CPU per check",
            used / checks * 1e6,
            "µs",
            peer_name,
            None if monit is None else monit / checks * 1e6,
        )
        for what, read in (("memory of its own (USS)", uss_mib), ("resident memory (RSS)", rss_mib)):
            yield Figure(part, what, read(ours.pid), "MiB", peer_name, None if theirs is None else read(theirs.pid))


def _target(place: Lab, index: int) -> int:
    port = place.upstream()
    (place.root / f"target-{index}.pid").write_text(f"{place.newest.pid}\n")
    return port


def _monit(place: Lab, ports: Sequence[int]) -> subprocess.Popen[bytes] | None:
    program = peer("monit")
    if program is None:
        return None
    targets = (_MONITRC_TARGET.format(root=place.root, index=at, port=port) for at, port in enumerate(ports))
    control = place.root / "monitrc"
    control.write_text(_MONITRC_HEAD.format(root=place.root) + "".join(targets))
    control.chmod(0o600)
    return place.start("monit", [program, "-I", "-c", control])


def _watchdog_config(place: Lab, ports: Sequence[int]) -> dict[str, Any]:
    rules = [{"alert": name, "expr": expr, "labels": {"severity": "warning"}} for name, expr in _RULES.items()]
    group = {"name": "same-checks", "interval": "1s", "rules": rules}
    (place.root / "rules.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    probes: dict[str, Any] = {"machine": {"kind": "system", "interval": "1s"}}
    for at, port in enumerate(ports):
        pidfile = str(place.root / f"target-{at}.pid")
        probes[f"target-{at}"] = {"kind": "process", "pidfile": pidfile, "interval": "1s"}
        probes[f"url-{at}"] = {"kind": "http", "url": f"http://127.0.0.1:{port}/health/live", "interval": "1s"}
    return {"rules": ["rules.yaml"], "playbooks": [], "services": {}, "probes": probes}
