"""What many probes cost: one in five asks over HTTP, the others connect over TCP, each every 10 s, judged by a rule.

Beside us Monit makes as many checks of the same kinds in the same cycle.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import yaml

from proxy.control import request
from tests.bench.figures import Aim, Figure
from tests.bench.lab import Lab, lab
from tests.bench.machine import cpu_seconds, peer, uss_mib

_INTERVAL_SECONDS = 10.0
_HTTP_EVERY = 5
_COUNTS = (50, 500, 5000)
_OF_RECORD = 500
_LATENESS_MS = 250.0
_SERIES_EACH = 16
_MONIT_CYCLES = 3
_RULE = {"alert": "Down", "expr": "probe_success == 0", "labels": {"severity": "warning"}}
_MONITRC_HEAD = """
set daemon {interval:.0f}
set pidfile {root}/monit.pid
set idfile {root}/monit.id
set statefile {root}/monit.state
set log {root}/monit-own.log
"""
_MONITRC_TCP = """
check host target-{number} with address 127.0.0.1
  if failed port {port} type tcp then alert
"""
_MONITRC_HTTP = """
check host target-{number} with address 127.0.0.1
  if failed port {port} protocol http request "/health/live" then alert
"""


def measure(quick: bool) -> Iterator[Figure]:
    """All rows of this part."""
    for count in (_OF_RECORD,) if quick else _COUNTS:
        with lab() as place:
            yield from _measure(place, count, quick)


def _measure(place: Lab, count: int, quick: bool) -> Iterator[Figure]:
    """The two are measured one after the other, as neither should wait for the other's processor."""
    rounds = 1 if quick else 6
    port = place.upstream()
    ours = place.start_watchdog(_config(place, port, count))
    share, late = _watch(place, ours, rounds)
    memory = uss_mib(ours.pid)
    place.end(ours)
    theirs = _monit(place, port, count, rounds)
    part = f"{count} probes every {_INTERVAL_SECONDS:g} s"
    aim = Aim(_LATENESS_MS, "figure") if count == _OF_RECORD else None
    monit = ("Monit", None if theirs is None else theirs[0] * 100)
    yield Figure(part, "CPU, of one core", share * 100, "%", *monit)
    yield Figure(part, "CPU a probe", share * _INTERVAL_SECONDS / count * 1e6, "µs")
    yield Figure(part, "memory of its own (USS)", memory, "MiB", "Monit", theirs and theirs[1])
    yield Figure(part, "lateness, p99", late * 1000, "ms", aim=aim)


def _watch(place: Lab, daemon: subprocess.Popen[bytes], rounds: int) -> tuple[float, float]:
    """CPU seconds a second, and the worst of the p99 over all jobs' last lateness, seconds."""
    time.sleep(_INTERVAL_SECONDS)
    began, used = time.monotonic(), cpu_seconds([daemon.pid])
    late = 0.0
    for _ in range(rounds):
        time.sleep(_INTERVAL_SECONDS)
        late = max(late, _late(place))
    return (cpu_seconds([daemon.pid]) - used) / (time.monotonic() - began), late


def _late(place: Lab) -> float:
    control = place.root / "var/run/proxywatch/control.sock"
    expression = quote("quantile(0.99, proxywatch_job_lateness_seconds)")
    (one,) = request(control, "GET", f"/v1/query?expr={expression}")[1]["result"]
    return float(one["value"])


def _config(place: Lab, port: int, count: int) -> dict[str, Any]:
    group = {"name": "down", "interval": "10s", "rules": [_RULE]}
    (place.root / "rules.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    tcp = {"kind": "tcp", "address": f"127.0.0.1:{port}", "interval": f"{_INTERVAL_SECONDS:g}s"}
    http = {"kind": "http", "url": f"http://127.0.0.1:{port}/health/live", "interval": f"{_INTERVAL_SECONDS:g}s"}
    return {
        "rules": ["rules.yaml"],
        "playbooks": [],
        "services": {},
        "probes": {f"target-{at}": dict(tcp if at % _HTTP_EVERY else http) for at in range(count)},
        "memory": {"max_series": max(20_000, count * _SERIES_EACH)},
    }


def _monit(place: Lab, port: int, count: int, rounds: int) -> tuple[float, float] | None:
    """CPU seconds a second, and memory of its own in MiB."""
    program = peer("monit")
    if program is None:
        return None
    checks = (
        (_MONITRC_TCP if number % _HTTP_EVERY else _MONITRC_HTTP).format(number=number, port=port)
        for number in range(count)
    )
    control = place.root / "monitrc"
    control.write_text(_MONITRC_HEAD.format(root=place.root, interval=_INTERVAL_SECONDS) + "".join(checks))
    control.chmod(0o600)
    daemon = place.start("monit", [program, "-I", "-c", control])
    time.sleep(_INTERVAL_SECONDS)
    began, used = time.monotonic(), cpu_seconds([daemon.pid])
    # It makes all its checks in one go and then sleeps: over a few cycles it does not matter where one begins.
    time.sleep(max(_MONIT_CYCLES, rounds) * _INTERVAL_SECONDS)
    share = (cpu_seconds([daemon.pid]) - used) / (time.monotonic() - began)
    memory = uss_mib(daemon.pid)
    place.end(daemon)
    return share, memory
