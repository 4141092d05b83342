"""The operators' guide's commands that address the proxy, run with real curl, grep and jq against a real service.

Admin commands run without a key, as the system user who owns the proxy (`anonymous_loopback: owner`).
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plain_http
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration" / "proxy_shell"))

from proxy_service import Service, make_service

_NUMBER = (int, float)
_HERE = "http://localhost:8000"


@dataclass(frozen=True)
class Command:
    """One command: curl's arguments, jq's filter if it is piped there, and what must come out."""

    curl: str
    kinds: tuple[type, ...] | type
    jq: str | None = None
    least: float | None = None

    @property
    def name(self) -> str:
        return self.curl.replace(_HERE, "").replace("-s ", "") + (f" | {self.jq}" if self.jq else "")


COMMANDS = (
    Command(f"-s {_HERE}/health", str, ".status"),
    Command(f"-s {_HERE}/health", str, ".version"),
    Command(f"-s {_HERE}/health", _NUMBER, ".uptime_seconds", 0),
    Command(f"-s {_HERE}/health", dict, ".memory"),
    Command(f"-s {_HERE}/health/providers", dict, "."),
    Command(f"-s {_HERE}/health/providers", str, ".[].status"),
    Command(f"-s {_HERE}/health/cache", dict, "."),
    Command(f"{_HERE}/metrics", _NUMBER, ".performance.avg_response_time_ms", 0),
    Command(f"{_HERE}/metrics", dict, ".performance.response_time_percentiles"),
    Command(f"{_HERE}/health/providers", dict),
    Command(f"{_HERE}/metrics", _NUMBER, ".performance.requests_per_second", 0),
    Command(f"{_HERE}/metrics", int, ".performance.queue_depth", 0),
    Command(f"{_HERE}/metrics", _NUMBER, ".http_client.pool_utilization", 0),
    Command(f"{_HERE}/metrics", _NUMBER, ".cache.memory_usage_mb", 0),
    Command(f"{_HERE}/metrics", int, ".cache.entries", 1),
    Command(f"{_HERE}/metrics", _NUMBER, ".cache.hit_rate", 0),
    Command(f"{_HERE}/metrics/cache", dict),
    Command(f"{_HERE}/debug/cache/keys", dict, "."),
    Command(f"{_HERE}/metrics/cache/warming", dict),
    Command(f"{_HERE}/debug/cache/config", dict),
    Command(f"{_HERE}/debug/cache/stats", _NUMBER, ".oldest_entry_age_seconds", 0),
    Command(f"{_HERE}/health/cache", _NUMBER, ".memory_usage_mb", 0),
    Command(f"{_HERE}/metrics/cache", int, ".evictions", 0),
    Command(f"{_HERE}/metrics", dict, ".rate_limiting"),
    Command(f"{_HERE}/health/providers", int, ".[].rate_limit_remaining", 0),
    Command(f"{_HERE}/api/models", dict),
    Command(f"{_HERE}/metrics/security", int, ".failed_auth_attempts", 1),
    Command(f"{_HERE}/metrics/security", dict, ".data_access"),
    Command(f"-X POST {_HERE}/api/cache/pause-warming", dict),
    Command(f"{_HERE}/api/cache/export", dict),
    Command(f"-X POST {_HERE}/api/cache/resume-warming", dict),
    Command(f"-X DELETE {_HERE}/api/cache", dict),
)
_HEADS = {
    "/health": ("x-response-time", "strict-transport-security", "content-security-policy", "x-frame-options"),
    "/api/models": ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-content-type-options"),
}


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    for tool in ("curl", "jq"):
        if shutil.which(tool) is None:
            if os.environ.get("CI"):
                pytest.fail(f"{tool} is not installed")
            pytest.skip(f"{tool} is not installed")


class Upstream(http.server.BaseHTTPRequestHandler):
    """A provider that says, as OpenAI does, how many requests it still allows."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        body = json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-ratelimit-remaining-requests", "4999")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_arguments: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    """Its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def guided(upstream: int) -> Iterator[Service]:
    """A service as an operator has it: some requests were answered, one of them twice, and one key was wrong."""
    with tempfile.TemporaryDirectory(prefix="lg-") as name:
        made = make_service(Path(name))
        made.settings["auth"]["anonymous_loopback"] = "owner"
        made.settings["providers"] = [
            {"name": "far", "kind": "openai", "base_url": f"http://127.0.0.1:{upstream}/v1", "models": ["demo-small"]}
        ]
        made.settings["limits"] = {"per_key": {"requests": 100_000}}
        made.settings["log"] = {"file": str(made.place / "llm_proxy.log"), "level": "info"}
        try:
            made.start()
            question = {"model": "demo-small", "messages": [{"role": "user", "content": "hello"}]}
            url = made.url("/v1/chat/completions")
            for _ in range(2):
                assert plain_http.post(url, json=question).status_code == 200
            assert plain_http.get(made.url("/v1/models"), headers={"authorization": "Bearer wrong"}).status_code == 401
            made.until(lambda: plain_http.get(made.url("/metrics")).json()["cache"]["entries"])
            yield made
        finally:
            made.end()


def run(service: Service, *curl: str) -> str:
    """What curl prints; it must succeed."""
    here = service.url("").replace("127.0.0.1", "localhost")
    argv = ["curl", *(word.replace(_HERE, here) for word in curl)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def piped(program: list[str], given: str) -> str:
    done = subprocess.run(program, input=given, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_a_command_of_the_guide_yields_what_it_reads(guided: Service, command: Command) -> None:
    """As it stands, but for the port, it prints a value of the kind that the guide goes on to use."""
    printed = run(guided, *command.curl.split())
    found: Any = json.loads(piped(["jq", command.jq], printed) if command.jq else printed)
    assert isinstance(found, command.kinds), printed
    assert not isinstance(found, bool)
    assert not (isinstance(found, dict) and "error" in found), printed
    if command.least is not None:
        assert found >= command.least


@pytest.mark.parametrize("path", list(_HEADS))
def test_a_look_at_the_headers(guided: Service, path: str) -> None:
    """`curl -I` shows the headers that the guide's procedures look for."""
    lines = run(guided, "-s", "-I", f"{_HERE}{path}").lower().splitlines()
    assert lines[0].startswith("http/1.1 200")
    names = {line.partition(":")[0] for line in lines}
    assert set(_HEADS[path]) <= names


@pytest.mark.parametrize(
    ("header", "status"), [("Bearer {key}", "200"), ("Bearer invalid_key", "401"), ("Invalid format", "401")]
)
def test_a_key_is_tested_through_the_proxy(guided: Service, header: str, status: str) -> None:
    """A good key lists the models; one that is wrong, or no key at all in form, is a 401."""
    sent = header.format(key=guided.admin["authorization"].removeprefix("Bearer "))
    told = run(
        guided, "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{_HERE}/api/models", "-H", f"Authorization: {sent}"
    )
    assert told == status


def test_the_log_is_searched(guided: Service) -> None:
    """The guide's searches in the log find the failed authentication and the times of requests."""
    log = guided.place / "llm_proxy.log"
    guided.until(lambda: log.exists() and "authentication" in log.read_text())
    failures = piped(["grep", "authentication", str(log)], "")
    failed = piped(["jq", "-c", "select(.success == false)"], failures).splitlines()
    assert failed
    timed = piped(["jq", "-c", "select(.response_time_ms >= 0)"], piped(["grep", "response_time_ms", str(log)], ""))
    assert len(timed.splitlines()) >= 3
    levels = piped(["jq", "-r", ".level"], log.read_text()).split()
    assert set(map(str.lower, levels)) <= {"debug", "info", "warning", "error"}


@pytest.mark.parametrize(
    "sample",
    [
        'http_requests_total{method="POST",route="/v1/chat/completions",status="200"}',
        'http_request_duration_seconds_bucket{route="/v1/chat/completions",le="+Inf"}',
        'provider_requests_total{provider="far"',
        "cache_hit_rate",
        'rate_limit_remaining{provider="far"}',
    ],
    ids=lambda sample: sample.partition("{")[0],
)
def test_a_metric_of_the_guides_alerts_is_there(guided: Service, sample: str) -> None:
    """Prometheus finds what the guide's alerting rules ask for, under the name and the label that they use."""

    def scraped() -> list[str]:
        text = run(guided, "-s", "-H", "Accept: text/plain", f"{_HERE}/metrics")
        return [line for line in text.splitlines() if line.startswith(sample)]

    (line,) = guided.until(scraped)
    assert float(line.rpartition(" ")[2]) > 0
