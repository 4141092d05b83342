"""A remediation storm: hundreds of targets fall ill at once, and somebody asks the daemon all the while.

Every target is a file that should be there, looked at by a probe of its own; one rename takes all of them away. A
playbook may put each back, and its budgets let it do that for ten. The control socket is asked by another process.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

from proxy.control import request
from tests.bench.figures import Aim, BenchError, Figure
from tests.bench.lab import Lab, lab, until
from tests.bench.machine import cpu_seconds, uss_mib

TARGETS = 500
_AIM_MS = 100.0
_ACTIONS = 10
_QUESTIONS = (
    "/v1/status",
    "/v1/alerts",
    "/v1/incidents",
    "/v1/probes",
    "/v1/explain?target=probe:file-7",
    "/v1/incidents/7",
    "/v1/history?since=600",
    "/v1/rules",
    "/v1/explain",
)
_RULES = {
    "groups": [
        {
            "name": "storm",
            "interval": "5s",
            "rules": [
                {
                    "alert": "FileMissing",
                    "expr": "file_exists == 0",
                    "labels": {"severity": "critical", "target": "probe:{{ $labels.job }}"},
                    "annotations": {"summary": "{{ $labels.path }} is not there", "description": "It should be."},
                }
            ],
        }
    ]
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the control socket; seconds."""

    target: str
    began: float
    took: float
    status: int


@contextmanager
def inbox() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook receiver: its address, and what it has been sent."""
    messages: list[dict[str, Any]] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", messages
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Storm:
    """A daemon with its targets in a lab."""

    def __init__(self, place: Lab, hook: str) -> None:
        self.place = place
        self.files = place.root / "files"
        self.acted = place.root / "acted"
        self._away = place.root / "away"
        for directory in (self.files, self.acted):
            directory.mkdir()
        for number in range(TARGETS):
            (self.files / f"file-{number}").touch()
        (place.root / "rules.yaml").write_text(yaml.safe_dump(_RULES))
        (place.root / "playbook.yaml").write_text(yaml.safe_dump(self._playbook()))
        route = {"receiver": "inbox", "group_by": ["alertname"], "group_wait": "1s", "group_interval": "5s"}
        hooks = [{"url": hook, "send_resolved": True}]
        routes = {"route": route, "receivers": [{"name": "inbox", "webhook_configs": hooks}]}
        self.daemon = place.start_watchdog(self._config(), routes)
        self.control = place.root / "var/run/proxywatch/control.sock"

    def _playbook(self) -> dict[str, Any]:
        touch = [sys.executable, "-c", "import pathlib,sys; [pathlib.Path(p).touch() for p in sys.argv[1:]]"]
        both = [f"{self.acted}/{{probe}}", f"{self.files}/{{probe}}"]
        step = {"kind": "command", "argv": [*touch, *both], "timeout": "10s"}
        verify = {"hold": "0s", "within": "10s"}
        return {
            "name": "put-back",
            "answers": ['alertname="FileMissing"'],
            "targets": ["probe"],
            "ladder": [{"rung": "put", "steps": [step], "verify": verify}],
        }

    def _config(self) -> dict[str, Any]:
        probes = {
            f"file-{number}": {"kind": "file", "path": str(self.files / f"file-{number}"), "interval": "10s"}
            for number in range(TARGETS)
        }
        return {
            "rules": ["rules.yaml"],
            "playbooks": ["playbook.yaml"],
            "services": {},
            "probes": probes,
            "guards": {"boot_grace": "0s", "host_budget": {"1h": _ACTIONS}},
        }

    def ask(self, target: str) -> Any:
        """The JSON of one GET."""
        return request(self.control, "GET", target, timeout=60.0)[1]

    def begin(self) -> None:
        """Everything is ill from now on."""
        self.files.rename(self._away)
        self.files.mkdir()

    def end(self) -> None:
        """Everything is well from now on."""
        for file in self._away.iterdir():
            (self.files / file.name).touch()

    def states(self) -> dict[str, int]:
        """How many incidents are in each state."""
        counts: dict[str, int] = {}
        for incident in self.ask("/v1/incidents?all=1&limit=2000")["incidents"]:
            counts[incident["state"]] = counts.get(incident["state"], 0) + 1
        return counts


def measure(quick: bool) -> Iterator[Figure]:
    """All rows of this part."""
    del quick
    with inbox() as (hook, messages), lab() as place:
        storm = Storm(place, hook)
        memory = uss_mib(storm.daemon.pid)
        asking = place.start("asking", [sys.executable, "-m", "tests.bench.asking", storm.control, *_QUESTIONS])
        time.sleep(3.0)
        used = cpu_seconds([storm.daemon.pid])
        began = time.monotonic()
        storm.begin()
        until("every alert fires", lambda: len(storm.ask("/v1/alerts")["alerts"]) >= TARGETS - _ACTIONS, 60.0, 0.5)
        fired = time.monotonic() - began
        until("all are told of", lambda: storm.states().get("escalated", 0) >= TARGETS - _ACTIONS, 240.0, 1.0)
        told = time.monotonic() - began
        storm.end()
        until("all is resolved", lambda: set(storm.states()) == {"resolved"}, 120.0, 1.0)
        over = time.monotonic() - began
        used = cpu_seconds([storm.daemon.pid]) - used
        peak = uss_mib(storm.daemon.pid)
        place.end(asking)
        answers = [Answer(*json.loads(line)) for line in (place.root / "asking.log").read_text().splitlines()[:-1]]
        bad = [answer for answer in answers if answer.status != 200 and "/incidents/" not in answer.target]
        if bad:
            raise BenchError(f"{bad[0].target} was answered by {bad[0].status}")
        stormy = sorted(answer.took * 1000 for answer in answers if answer.began >= began)
        part = f"A storm: {TARGETS} targets ill at once"
        aim = Aim(_AIM_MS, "figure")
        note = f"p50 {stormy[len(stormy) // 2]:.1f}, p99 {stormy[len(stormy) * 99 // 100]:.1f}, {len(stormy)} questions"
        yield Figure(part, "slowest answer of the control socket", stormy[-1], "ms", aim=aim, note=note)
        for target in _QUESTIONS:
            mine = sorted(answer.took * 1000 for answer in answers if answer.began >= began and answer.target == target)
            note = f"p50 {mine[len(mine) // 2]:.1f}"
            yield Figure(part, f"slowest answer of {target}", mine[-1], "ms", note=note)
        yield Figure(part, "from the fault to all alerts", fired, "s", note="probed every 10 s")
        yield Figure(part, "from the fault until a person has heard of all", told, "s")
        yield Figure(part, "to all resolved", over, "s")
        yield Figure(part, "actions", len(list(storm.acted.iterdir())), "", aim=Aim(_ACTIONS, "figure"))
        yield Figure(part, "messages", len(messages), "")
        yield Figure(part, "CPU of the daemon", used, "s")
        yield Figure(part, "memory of its own (USS)", peak, "MiB", note=f"{memory:.1f} before")
