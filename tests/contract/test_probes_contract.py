"""What every kind of probe keeps to, whichever it is: against a live llm-proxy, and against one that is not there."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

import watchdog.probes
from watchdog.clock import SystemClock
from watchdog.probes import Memory, Probe, ProbeContext, ProbeSettings, probes, run_once
from watchdog.system.http import HttpClient
from watchdog.system.proxy_api import ProxyEndpoint

probes.discover(watchdog.probes)

KINDS = sorted(probes.kinds)
NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
PROXY = """
host: 127.0.0.1
port: 0
workers: 1
run_dir: {root}/run
state_dir: {root}/state
auth: {{anonymous_loopback: user}}
providers: [{{name: far, kind: openai, base_url: "http://127.0.0.1:9/v1", api_key: none}}]
log: {{file: {root}/log}}
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyEndpoint]:
    """One llm-proxy for all tests of this file."""
    root = tmp_path_factory.mktemp("proxy")
    (root / "proxy.yaml").write_text(PROXY.format(root=root))
    argv = (sys.executable, "-m", "proxy", "run", "--config", str(root / "proxy.yaml"))
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, start_new_session=True) as master:
        assert master.stderr is not None
        said = next((line for line in master.stderr if "serving on" in line), "")
        url = said.split()[3]
        with urllib.request.urlopen(f"{url}/health/live", timeout=10) as answer:
            assert answer.status == 200
        yield ProxyEndpoint(url, root / "run" / "master.sock")
        master.send_signal(signal.SIGTERM)
        master.stderr.read()


def live_settings(kind: str, endpoint: ProxyEndpoint, tmp_path: Path) -> dict[str, Any]:
    match kind:
        case "command":
            return {"argv": ["echo", "fine | 'a b'=3ms;5;6;0;10"]}
        case "disk":
            return {"paths": [str(tmp_path)]}
        case "file":
            (tmp_path / "content").write_text("x")
            return {"path": str(tmp_path / "content"), "checksum": True}
        case "dns":
            return {"name": "localhost"}
        case "heartbeat":
            return {"period": "1d"}
        case "http":
            return {"url": f"{endpoint.url}/health/live"}
        case "journal":
            return {"journalctl": ["true"]}
        case "log":
            (tmp_path / "log").touch()
            return {"path": str(tmp_path / "log"), "patterns": {"error": "ERROR"}}
        case "security_log":
            (tmp_path / "security.log").touch()
            return {"path": str(tmp_path / "security.log")}
        case "process":
            (tmp_path / "me.pid").write_text(str(os.getpid()))
            return {"pidfile": str(tmp_path / "me.pid")}
        case "pressure" | "system":
            return {}
        case "systemd_unit":
            said = "LoadState=loaded\\nActiveState=active\\nSubState=running\\nNRestarts=0\\nExecMainPID=7"
            return {"units": ["a.service"], "systemctl": ["printf", f"{said}\\n%.0s"]}
        case "tcp":
            return {"address": endpoint.url.removeprefix("http://")}
        case "tls":
            return {"file": str(certificate(tmp_path))}
    return {"service": "proxy"}


def certificate(directory: Path) -> Path:
    """A certificate that is made for this test."""
    file, key = directory / "own.pem", directory / "own.key"
    argv = ("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    subprocess.run((*argv, "-subj", "/CN=own", "-keyout", key, "-out", file), check=True, capture_output=True)
    return file


@contextlib.contextmanager
def time_server() -> Iterator[str]:
    """Answers one SNTP question by the machine's own clock."""

    def answer() -> None:
        question, asker = server.recvfrom(100)
        now = int((time.time() + 2_208_988_800) * 2**32)
        server.sendto(struct.pack("!BBbbII4sQ8sQQ", 0x24, 2, 0, 0, 0, 0, b"", 0, question[40:48], now, now), asker)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def dead_settings(kind: str, tmp_path: Path) -> dict[str, Any]:
    match kind:
        case "command":
            return {"argv": ["sh", "-c", "echo nobody knows; exit 3"]}
        case "disk":
            return {"paths": [str(tmp_path / "none")]}
        case "file":
            return {"path": str(tmp_path), "checksum": True}
        case "dns":
            return {"name": "none.invalid", "server": "127.0.0.1:9"}
        case "heartbeat":
            return {"period": "1d"}
        case "http":
            return {"url": "http://127.0.0.1:9/"}
        case "ntp":
            return {"server": "127.0.0.1:9"}
        case "journal":
            return {"journalctl": [str(tmp_path / "none")]}
        case "log":
            return {"path": str(tmp_path / "none"), "patterns": {"error": "ERROR"}}
        case "security_log":
            return {"path": str(tmp_path / "none")}
        case "process":
            return {"pidfile": str(tmp_path / "none.pid")}
        case "pressure":
            return {"cgroup": str(tmp_path / "none")}
        case "systemd_unit":
            return {"units": ["a.service"], "systemctl": [str(tmp_path / "none")]}
        case "tcp" | "tls":
            return {"address": "127.0.0.1:9"}
    return {"service": "proxy"}


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


class Remembered(dict[str, Any]):
    """A memory that lasts as long as the test."""

    def put(self, name: str, value: object) -> None:
        self[name] = value


def build(
    kind: str, written: dict[str, Any], http: HttpClient, endpoint: ProxyEndpoint, memory: Memory | None = None
) -> tuple[Probe, ProbeSettings]:
    settings = probes.kinds[kind].model_validate({"kind": kind, **written})
    assert isinstance(settings, ProbeSettings)
    context = ProbeContext("mine", SystemClock(), http, {}, {"proxy": endpoint}, memory)
    return probes.implementation(kind)(settings, context), settings


def test_the_kinds_that_are_due_are_there() -> None:
    """Every kind of the product's first issue is registered."""
    due = {"system", "proxy", "workers", "provider", "cache", "memory_leak", "http", "process"}
    assert due <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_frozen_strict_and_explained(kind: str) -> None:
    """`kind` is a literal, unknown keys are refused, nothing can be changed, and the file says what it measures."""
    model = probes.kinds[kind]
    assert get_args(model.model_fields["kind"].annotation) == (kind,)
    assert model.model_config["frozen"]
    assert model.__doc__
    with pytest.raises(ValidationError, match="Extra inputs"):
        model.model_validate({"kind": kind, "service": "x", "url": "http://x/", "pidfile_": 1})
    module = inspect.getmodule(probes.implementation(kind))
    assert module is not None
    assert module.__doc__
    assert module.__doc__.startswith(f"`{kind}`: ")
    assert "Fails" in module.__doc__ or "fails" in module.__doc__
    json.dumps(TypeAdapter(model).json_schema())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_live_target_gives_good_samples(
    kind: str, live: ProxyEndpoint, http: HttpClient, tmp_path: Path
) -> None:
    """Samples are finite, named and labelled as Prometheus wants, no series comes twice, and success is 1."""
    with time_server() if kind == "ntp" else contextlib.nullcontext() as server:
        written = live_settings(kind, live, tmp_path) if server is None else {"server": server}
        probe, settings = build(kind, written, http, live, Remembered())
        result = await run_once(probe, settings, "mine", SystemClock())
    assert result.error is None
    assert len(result.samples) > 2
    for sample in result.samples:
        assert NAME.fullmatch(sample.name), sample
        assert all(LABEL.fullmatch(name) and value for name, value in sample.labels), sample
        assert list(sample.labels) == sorted(sample.labels)
        assert math.isfinite(sample.value), sample
    series = [(sample.name, sample.labels) for sample in result.samples]
    assert len(series) == len(set(series))
    assert next(sample.value for sample in result.samples if sample.name == "probe_success") == 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "system"])
async def test_a_dead_target_gives_a_failure_with_its_reason(kind: str, http: HttpClient, tmp_path: Path) -> None:
    """Success is 0 and the note says why, long before the timeout. (The machine itself is never dead.)"""
    nowhere = ProxyEndpoint("http://127.0.0.1:9", tmp_path / "none.sock")
    probe, settings = build(kind, dead_settings(kind, tmp_path), http, nowhere)
    result = await run_once(probe, settings, "mine", SystemClock())
    assert next(sample.value for sample in result.samples if sample.name == "probe_success") == 0
    assert result.error
    assert result.note == result.error
    assert result.duration < settings.timeout


@pytest.mark.parametrize("kind", ["proxy", "workers", "provider", "cache", "memory_leak"])
async def test_a_probe_of_a_proxy_needs_one(kind: str, http: HttpClient, tmp_path: Path) -> None:
    """Without a service that is an llm-proxy the failure says what is missing in the configuration."""
    probe, settings = build(kind, {"service": "other"}, http, ProxyEndpoint("http://x", tmp_path / "s"))
    result = await run_once(probe, settings, "mine", SystemClock())
    wanted = "memory agent" if kind == "memory_leak" else "`proxy`"
    assert f"service 'other' has no {wanted}" in result.note
