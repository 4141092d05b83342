"""Probes over a reload and over their own bugs."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from watchdog.clock import SystemClock
from watchdog.core.model import Measurement
from watchdog.files import Files, read_files
from watchdog.metrics.engine import RuleEngine
from watchdog.metrics.series import SeriesStore
from watchdog.pipeline import Pipeline
from watchdog.playbooks.bell import Bell
from watchdog.rounds import Rounds
from watchdog.schedule import Schedule
from watchdog.system.http import HttpClient


def configuration(root: Path, port: int) -> Files:
    """One proxy that answers, or not, at `port`, and one probe that reads its cache."""
    for name in ("rules", "playbooks"):
        (root / name).mkdir(exist_ok=True)
    (root / "rules/none.yaml").write_text("groups: []\n")
    book = {"name": "none", "answers": ['alertname="None"'], "targets": ["host"], "ladder": [{"rung": "wait"}]}
    (root / "playbooks/none.yaml").write_text(yaml.safe_dump(book))
    (root / "routes.yaml").write_text("{route: {receiver: journal}, receivers: [{name: journal}]}\n")
    (root / "admin.key").write_text("key")
    proxy = {
        "url": f"http://127.0.0.1:{port}",
        "master_socket": str(root / "none.sock"),
        "admin_key_file": str(root / "admin.key"),
    }
    shape = {
        "services": {"web": {"kind": "external", "proxy": proxy}},
        "probes": {"cache": {"kind": "cache", "service": "web", "interval": "1h"}},
    }
    (root / "proxywatch.yaml").write_text(yaml.safe_dump(shape))
    return read_files(root / "proxywatch.yaml")


@pytest.fixture
def asked() -> Iterator[tuple[int, list[str]]]:
    """A port, and the paths that were asked for there."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(503)

        def log_message(self, *_: Any) -> None:
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1], paths
        server.shutdown()
        thread.join()


@pytest.fixture
async def rounds() -> AsyncIterator[Rounds]:
    clock, http_client, series = SystemClock(), HttpClient(), SeriesStore(60.0, 100, 100)
    pipeline = Pipeline(series, RuleEngine((), series), clock, Bell(), list)
    schedule = Schedule(clock)
    made = Rounds(pipeline, schedule, clock, http_client, {})
    yield made
    await made.end()
    await http_client.close()


async def test_a_probe_follows_its_service_over_a_reload(
    tmp_path: Path, asked: tuple[int, list[str]], rounds: Rounds
) -> None:
    """When only the address of the service has changed its probe asks at the new one."""
    port, paths = asked
    await rounds.begin(configuration(tmp_path, 9).loaded.config)
    await rounds.run_now("cache")
    assert paths == []
    await rounds.replace(configuration(tmp_path, port).loaded.config)
    await rounds.run_now("cache")
    assert paths != []


class Broken:
    """A probe with a bug."""

    async def measure(self) -> Measurement:
        await asyncio.sleep(0)
        raise KeyError("oops")


async def test_a_bug_in_a_probe_is_a_failed_measurement(tmp_path: Path, rounds: Rounds) -> None:
    """It says that nothing was measured, so that a rule can tell; its old figures do not stand."""
    await rounds.begin(configuration(tmp_path, 9).loaded.config)
    rounds._entries["cache"].probe = Broken()
    await rounds.run_now("cache")
    result = rounds._pipeline.results["cache"]
    assert result.error == "a bug of ours: KeyError: 'oops'"
    assert [(s.name, s.value) for s in result.samples] == [("probe_success", 0.0)]
