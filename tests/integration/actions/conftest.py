"""What an action is built with: its settings as a playbook writes them, a clock, and a real llm-proxy."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import watchdog.actions
from watchdog.actions import Action, ActionContext, actions
from watchdog.clock import Clock, SystemClock
from watchdog.core.targets import parse_target
from watchdog.system.http import HttpClient
from watchdog.system.proxy_api import ProxyApi, ProxyEndpoint

actions.discover(watchdog.actions)

CONFIGURATION = """
host: 127.0.0.1
port: 0
workers: 1
run_dir: {root}/run
state_dir: {root}/state
auth: {{anonymous_loopback: user, keys: [{{id: admin, role: admin, key_file: "{root}/admin.key"}}]}}
providers:
  - name: far
    kind: openai
    base_url: "http://127.0.0.1:9/v1"
    keys: [{{id: one, key: "{one}"}}, {{id: two, key: "{two}"}}]
  - name: kept
    kind: openai
    base_url: "http://127.0.0.1:9/v1"
    keys: [{{id: one, key: "{one}"}}, {{id: two, key: "{two}", spare: true}}]
faults: true
log: {{file: "{root}/log"}}
"""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyEndpoint]:
    """An llm-proxy of one worker, and one provider with two keys."""
    root = tmp_path_factory.mktemp("proxy")
    written = CONFIGURATION.format(root=root, one=secrets.token_hex(), two=secrets.token_hex())
    (root / "proxy.yaml").write_text(written)
    argv = (sys.executable, "-m", "proxy", "run", "--config", str(root / "proxy.yaml"))
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True) as master:
        assert master.stderr is not None
        said = next((line for line in master.stderr if "serving on" in line), "")
        try:
            yield ProxyEndpoint(said.split()[3], root / "run" / "master.sock", root / "admin.key")
        finally:
            master.send_signal(signal.SIGTERM)
            master.stderr.read()


@pytest.fixture
async def proxy(endpoint: ProxyEndpoint) -> AsyncIterator[ProxyApi]:
    client = HttpClient()
    yield ProxyApi(endpoint, client)
    await client.close()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Action]:
    def built(
        kind: str,
        target: str = "host",
        proxy: ProxyApi | None = None,
        clock: Clock | None = None,
        labels: dict[str, str] | None = None,
        **written: Any,
    ) -> Action:
        settings = actions.kinds[kind].model_validate({"kind": kind, **written})
        proxies = {} if proxy is None else {"llm-proxy": proxy}
        context = ActionContext(
            target=parse_target(target),
            labels={"service": "llm-proxy", **(labels or {})},
            services={},
            proxies=proxies,
            clock=clock or SystemClock(),
            log_dir=tmp_path,
        )
        return actions.implementation(kind)(settings, context)

    return built
