"""From an event to the first action: a process is killed, the kernel says so, and a running daemon writes its intent.

The time of the intent is the daemon's own, written before the effect begins; killing and writing use the same clock.
"""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from tests.bench.figures import Aim, Figure
from tests.bench.lab import Lab, lab, until

_AIM_MS = 50.0
_START = 'sleep 3600 >/dev/null 2>&1 & echo $! > "$1.new" && mv "$1.new" "$1"\n'
_RULE = {
    "alert": "ProcessGone",
    "expr": "proxywatch_process_up == 0",
    "labels": {"severity": "critical", "target": "process:{{ $labels.process }}"},
    "annotations": {"summary": "{{ $labels.process }} has ended"},
}


def measure(quick: bool) -> Iterator[Figure]:
    """All rows of this part."""
    count = 8 if quick else 40
    with lab() as place:
        names = [f"victim-{number}" for number in range(count)]
        victims = [_start(place, name) for name in names]
        place.start_watchdog(_config(place, names))
        database = place.root / "var/lib/proxywatch/proxywatch.db"
        times = []
        for name, victim in zip(names, victims, strict=True):
            killed = time.time()
            victim.kill()
            victim.wait()
            intended = until(f"{name} is started again", lambda name=name: _healed(database, name), 30.0, 0.02)
            times.append((intended - killed) * 1000)
        note = f"{count} kills, {min(times):.1f} to {max(times):.1f}"
        aim = Aim(_AIM_MS, "figure")
        yield Figure("From an event to the first action", "kill to intent, median", median(times), "ms", note=note)
        yield Figure("From an event to the first action", "kill to intent, slowest", max(times), "ms", aim=aim)


def _start(place: Lab, name: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["sleep", "3600"], cwd=place.root)
    (place.root / f"{name}.pid").write_text(f"{process.pid}\n")
    return process


def _healed(database: Path, name: str) -> float:
    """When the effect was intended, once its incident is over; 0 before."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT e.intended_at FROM effects e JOIN incidents i ON i.key = e.target"
            " WHERE e.target = ? AND i.resolved_at IS NOT NULL",
            (f"process:{name}",),
        ).fetchall()
    return float(rows[0][0]) if rows else 0.0


def _config(place: Lab, names: list[str]) -> dict[str, Any]:
    (place.root / "start.sh").write_text(_START)
    group = {"name": "processes", "interval": "5s", "rules": [_RULE]}
    (place.root / "rules.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    argv = ["sh", str(place.root / "start.sh"), f"{place.root}/{{process}}.pid"]
    playbook = {
        "name": "start-again",
        "answers": ['alertname="ProcessGone"'],
        "targets": ["process"],
        "ladder": [
            {
                "rung": "start",
                "steps": [{"kind": "command", "argv": argv, "timeout": "10s"}],
                "verify": {"hold": "0s", "within": "10s"},
            }
        ],
    }
    (place.root / "playbook.yaml").write_text(yaml.safe_dump(playbook))
    return {
        "rules": ["rules.yaml"],
        "playbooks": ["playbook.yaml"],
        "services": {},
        "probes": {
            name: {"kind": "process", "pidfile": str(place.root / f"{name}.pid"), "interval": "5s"} for name in names
        },
        "guards": {"boot_grace": "0s", "host_budget": {"1h": 2 * len(names)}},
    }
