"""A real daemon without processes to watch: real SQLite, rules, guards and runner; measurements are told to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from watchdog.api.app import create_app
from watchdog.api.parts import Parts
from watchdog.api.server import ControlServer
from watchdog.cli.control import Control
from watchdog.core.model import Sample, labels_of
from watchdog.daemon import Daemon
from watchdog.files import read_files

HUNG = 'proxywatch_worker_responsive{service="llm-proxy",worker="0"} == 1'
WORKER = "worker:llm-proxy/0"
RULES = """
groups:
  - name: small
    rules:
      - alert: WorkerHung
        expr: proxywatch_worker_responsive == 0
        labels: {severity: critical, target: "worker:{{ $labels.service }}/{{ $labels.worker }}"}
        annotations: {summary: "Worker {{ $labels.worker }} hangs", description: It does not answer.}
      - alert: ProviderFailing
        expr: provider_fault == 1
        labels: {severity: critical, target: "provider:{{ $labels.provider }}"}
        annotations: {summary: "Provider {{ $labels.provider }} fails"}
      - alert: Strange
        expr: strange_ratio > 1
        labels: {severity: warning, target: "cache:llm-proxy"}
"""


def playbooks(root: Path) -> list[dict[str, Any]]:
    """One that leaves a mark on the disk when it acts, and one for what is remote."""
    mark = {"kind": "command", "argv": ["touch", str(root / "mark-{worker}")]}
    verify = {"expr": HUNG, "hold": "50ms", "within": "3s"}
    return [
        {
            "name": "restore-worker",
            "description": "Leaves a mark.",
            "answers": ['alertname="WorkerHung"'],
            "targets": ["worker"],
            "budget": {"1h": 2},
            "ladder": [
                {"rung": "wait", "when": "worker_is_starting == 1", "verify": verify},
                {"rung": "mark", "steps": [mark], "verify": verify},
            ],
        },
        {
            "name": "provider-failover",
            "answers": ['alertname="ProviderFailing"'],
            "targets": ["provider"],
            "autonomy": "observe",
            "ladder": [{"rung": "open-circuit", "steps": [{"kind": "open_circuit"}]}],
        },
    ]


def write_config(root: Path, **over: Any) -> Path:
    """A whole configuration under `root`; its proxy answers nowhere."""
    config = root / "config"
    for name in ("rules", "playbooks"):
        (config / name).mkdir(parents=True, exist_ok=True)
    (config / "rules/small.yaml").write_text(RULES)
    for playbook in playbooks(root):
        (config / f"playbooks/{playbook['name']}.yaml").write_text(yaml.safe_dump(playbook, sort_keys=False))
    plain = {"route": {"receiver": "journal"}, "receivers": [{"name": "journal"}]}
    (config / "routes.yaml").write_text(yaml.safe_dump(plain))
    proxy = {"url": "http://127.0.0.1:9", "master_socket": str(root / "none.sock")}
    shape = {
        "state_dir": str(root / "state"),
        "run_dir": str(root / "run"),
        "log_dir": str(root / "log"),
        "host": "here",
        "services": {"llm-proxy": {"kind": "external", "proxy": proxy}},
        "probes": {"front": {"kind": "http", "url": "http://127.0.0.1:9/", "interval": "1h", "timeout": "2s"}},
        "guards": {"boot_grace": "0s"},
    }
    file = config / "proxywatch.yaml"
    file.write_text(yaml.safe_dump({**shape, **over}, sort_keys=False))
    return file


class SmallDaemon:
    """The daemon, its parts, its control socket, and ways to tell it what was measured."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = write_config(root)
        self.daemon = Daemon(read_files(self.file))
        self.parts: Parts = self.daemon.parts
        self.parts.ready = True
        self.socket = root / "run/control.sock"
        self.server = ControlServer(create_app(self.parts), self.socket)
        self.control = Control(self.socket)

    def measured(self, name: str, value: float, **labels: str) -> None:
        """One sample arrives, and every rule that reads it is evaluated."""
        settings = self.parts.loaded.config.probes["front"]
        self.parts.pipeline.announced("front", settings, [Sample(name, value, labels_of(labels))])

    def hang(self, responsive: float = 0.0) -> None:
        """Worker 0 stops to answer, or answers again."""
        self.measured("proxywatch_worker_responsive", responsive, service="llm-proxy", worker="0")

    async def get(self, path: str, **query: object) -> Any:
        """A question over the socket."""
        return await asyncio.to_thread(lambda: self.control.get(path, **query))

    async def post(self, path: str, body: dict[str, object] | None = None) -> Any:
        """A command over the socket."""
        return await asyncio.to_thread(self.control.post, path, body)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything in the store, to see whether anything was written."""
        tables = ("alerts", "incidents", "timeline", "runs", "effects", "facts", "outbox")
        return {t: [tuple(row) for row in self.daemon.database.query(f"SELECT * FROM {t}")] for t in tables}


@asynccontextmanager
async def small_daemon(root: Path) -> AsyncIterator[SmallDaemon]:
    """Serving its control socket; nothing is measured but what a test tells."""
    small = SmallDaemon(root)
    await small.server.start()
    await small.daemon.rounds.begin(small.parts.loaded.config)
    try:
        yield small
    finally:
        await small.server.stop()
        await small.daemon.rounds.end()
        await small.parts.runner.stop()
        await small.daemon.http.close()
        small.daemon.database.close()
