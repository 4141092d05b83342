"""A real llm-proxy with two workers, and what a probe is built with."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from live_proxy import LiveProxy

from watchdog.clock import SystemClock
from watchdog.probes import ProbeContext
from watchdog.system.http import HttpClient
from watchdog.system.proxy_api import ProxyApi, ProxyEndpoint

CONFIGURATION = """
host: 127.0.0.1
port: 0
workers: 2
run_dir: {root}/run
state_dir: {root}/state
auth: {{anonymous_loopback: user, keys: [{{id: admin, role: admin, key_file: "{root}/admin.key"}}]}}
providers: [{{name: far, kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: none}}]
recycle: {{drain_timeout: 2s}}
log: {{file: "{root}/log"}}
"""


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


@pytest.fixture
async def proxy(tmp_path: Path, http: HttpClient) -> AsyncIterator[LiveProxy]:
    (tmp_path / "p.yaml").write_text(CONFIGURATION.format(root=tmp_path))
    argv = (sys.executable, "-m", "proxy", "run", "--config", str(tmp_path / "p.yaml"))
    master = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert master.stderr is not None
    said = await asyncio.to_thread(lambda: next(line for line in master.stderr or () if "serving on" in line))
    endpoint = ProxyEndpoint(said.split()[3], tmp_path / "run" / "master.sock", tmp_path / "admin.key")
    live = LiveProxy(master, ProxyApi(endpoint, http))
    await live.status()
    yield live
    for pid in (master.pid, *live.pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    master.terminate()
    await asyncio.to_thread(master.stderr.read)
    await asyncio.to_thread(master.wait)
    master.stderr.close()


@pytest.fixture
def context(proxy: LiveProxy, http: HttpClient) -> ProbeContext:
    return ProbeContext("mine", SystemClock(), http, {}, {"proxy": proxy.api.endpoint})
