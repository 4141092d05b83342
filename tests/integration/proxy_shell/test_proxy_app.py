"""The HTTP face over real sockets, with a gateway of the test's own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest

from proxy.app import App
from proxy.call import Account, Operation
from proxy.clock import FakeClock
from proxy.eager import in_task
from proxy.errors import ApiError
from proxy.exchange import Plain
from proxy.logs import LogWriter
from proxy.metrics import Metrics
from proxy.server import Server
from proxy.settings import Settings

ADMIN = {"authorization": "Bearer top"}
USER = {"x-api-key": "plain"}


@dataclass
class OwnGateway:
    """Answers what it is told to, and remembers what it was asked."""

    asked: list[Any] = field(default_factory=list)
    well: bool = True
    release: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(
        self,
        operation: Operation,
        body: bytes,
        headers: Mapping[str, str],
        caller: str,
        request_id: str,
        account: Account,
    ) -> Plain:
        self.asked.append((body, caller, request_id))
        match body:
            case b"wait":
                await in_task()
                await self.release.wait()
            case b"stream":
                return Plain(200, self.chunks(), [(b"content-type", b"text/event-stream")])
            case b"torn":
                return Plain(200, self.torn(), [(b"content-type", b"text/event-stream")])
            case b"refuse":
                raise ApiError(429, "slow down", retryable=False, headers=((b"retry-after", b"3"),))
            case b"break":
                raise KeyError("a bug")
        return Plain(200, b"{}", [(b"content-type", b"application/json")])

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            yield b"data: 1\n\n"
            await self.release.wait()
            yield b"data: 2\n\n"
        finally:
            self.closed.set()

    async def torn(self) -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        raise KeyError("torn")

    def models(self) -> dict[str, Any]:
        return {"object": "list", "data": []}

    def usable(self) -> bool:
        return self.well

    def providers_health(self) -> dict[str, dict[str, Any]]:
        return {"p": {"status": "healthy", "rate_limit_remaining": 7}}

    def cache_health(self) -> dict[str, Any]:
        return {"status": "healthy"}

    def cache_metrics(self) -> dict[str, Any]:
        return {"memory_usage_mb": 0.0, "entries": 0, "hit_rate": 0.0}

    def evict_cache(self, *, expired: bool, fraction: float | None) -> dict[str, Any]:
        return {"expired": expired, "fraction": fraction}

    def flush_cache(self) -> dict[str, Any]:
        return {"flushed": 1, "flushes": 1}

    def set_circuit(self, provider: str, state: str, seconds: float, reason: str, model: str | None) -> dict[str, Any]:
        if provider != "p":
            raise KeyError(provider)
        if model not in (None, "m"):
            raise KeyError(model)
        return {"state": state, "seconds": seconds, "reason": reason}

    def set_key(self, provider: str, key_id: str, state: str, grace_seconds: float) -> dict[str, Any]:
        if (provider, key_id) != ("p", "main"):
            raise KeyError(provider if provider != "p" else key_id)
        return {"state": state, "grace_seconds": grace_seconds}


@dataclass
class Built:
    app: App
    gateway: OwnGateway
    log: LogWriter
    log_file: Path
    ports: dict[str, int]
    unix: Path
    servers: list[Server]

    def logged(self) -> str:
        self.log.flush()
        return self.log_file.read_text()

    def client(self, peer: str = "127.0.0.1") -> httpx.AsyncClient:
        """A client whose connections come from `peer`; `elsewhere` is no address of this machine's loopback."""
        if peer == "elsewhere":
            return plain_http.AsyncClient(
                transport=plain_http.AsyncHTTPTransport(uds=str(self.unix)), base_url="http://x"
            )
        host = f"[{peer}]" if ":" in peer else peer
        return plain_http.AsyncClient(base_url=f"http://{host}:{self.ports[peer]}")


@pytest.fixture
async def built(tmp_path: Path) -> AsyncIterator[Built]:
    clock = FakeClock()
    measured = Metrics(tmp_path / "metrics", "w0")
    settings = Settings.model_validate(
        {
            "auth": {
                "anonymous_loopback": "user",
                "keys": [
                    {"id": "boss", "role": "admin", "sha256": hashlib.sha256(b"top").hexdigest()},
                    {"id": "joe", "sha256": hashlib.sha256(b"plain").hexdigest()},
                ],
            },
            "providers": [{"name": "p", "kind": "local", "port": 1}],
            "max_in_flight": 1,
            "max_body_mb": 0.001,
            "log": {"file": str(tmp_path / "log" / "l.log")},
            "faults": True,
        }
    )
    log = LogWriter(settings.log, clock, 2)
    gateway = OwnGateway()
    app = App(settings, gateway, measured, log, clock)
    servers, ports = [], {}
    with tempfile.TemporaryDirectory(prefix="lp-") as short:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_UNIX, "elsewhere")):
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.bind(f"{short}/s" if family == socket.AF_UNIX else (host, 0))
            servers.append(Server(app, app.bounds))
            await servers[-1].start(listener)
            ports[host] = 0 if family == socket.AF_UNIX else listener.getsockname()[1]
        yield Built(app, gateway, log, tmp_path / "log" / "l.log", ports, Path(short) / "s", servers)
        for server in servers:
            await server.drain(0)
    measured.close()
    log.close()


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/health", {"status", "version", "uptime_seconds", "memory"}),
        ("/health/live", {"status"}),
        ("/health/ready", {"status"}),
        ("/health/quick", {"status", "memory_percent", "cpu_percent"}),
        ("/health/detailed", {"application", "providers", "cache", "system", "overall"}),
        ("/health/providers", {"p"}),
        ("/health/cache", {"status"}),
        ("/metrics", {"performance", "http_client", "cache", "rate_limiting"}),
        ("/metrics/json", {"performance", "http_client", "cache", "rate_limiting"}),
        ("/v1/models", {"object", "data"}),
        ("/api/models", {"object", "data"}),
    ],
)
async def test_every_reading_endpoint_answers_get_and_head(built: Built, path: str, keys: set[str]) -> None:
    """GET has the promised keys, HEAD the same headers, and both the timing, id and security headers."""
    async with built.client() as http:
        got, head = await http.get(path), await http.head(path)
    assert (got.status_code, head.status_code) == (200, 200)
    assert keys <= set(got.json())
    for reply in (got, head):
        assert float(reply.headers["x-response-time"]) >= 0
        assert reply.headers["x-request-id"]
        assert reply.headers["x-content-type-options"] == "nosniff"


async def test_metrics_speak_the_scrapers_language(built: Built) -> None:
    """Prometheus' Accept header gets the text form, OpenMetrics' its own, `*/*` JSON with the guide's paths."""
    async with built.client() as http:
        await http.get("/scanner/../../etc/passwd")
        await http.request("PURGE", "/v1/models")
        await http.get("/v1/models")
        text = await http.get("/metrics", headers={"accept": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"})
        opened = await http.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0,text/plain"})
        plain = (await http.get("/metrics", headers={"accept": "*/*"})).json()
    assert 'http_requests_total{method="GET",route="/v1/models",status="200"} 1\n' in text.text
    assert 'http_requests_total{method="GET",route="other",status="404"} 1\n' in text.text
    assert 'http_requests_total{method="other",route="other",status="405"} 1\n' in text.text
    assert 'http_request_duration_seconds_bucket{route="/v1/models",le="+Inf"} 1\n' in text.text
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE http_requests counter\n" in opened.text
    assert opened.text.endswith("# EOF\n")
    assert plain["rate_limiting"]["providers"]["p"]["remaining"] == 7
    assert {"avg_response_time_ms", "response_time_percentiles", "requests_per_second", "queue_depth"} <= set(
        plain["performance"]
    )
    assert set(plain["performance"]["response_time_percentiles"]) == {"p50", "p95", "p99"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "peer", "status", "code"),
    [
        ("GET", "/nope", {}, "127.0.0.1", 404, "unknown_url"),
        ("POST", "/health", {}, "127.0.0.1", 405, "method_not_allowed"),
        ("GET", "/v1/models", {}, "127.0.0.1", 200, None),
        ("GET", "/v1/models", {}, "::1", 200, None),
        ("GET", "/v1/models", {}, "elsewhere", 401, "invalid_api_key"),
        ("GET", "/v1/models", {"x-forwarded-for": "1.2.3.4"}, "127.0.0.1", 401, "invalid_api_key"),
        ("GET", "/v1/models", {"forwarded": "for=1.2.3.4"}, "127.0.0.1", 401, "invalid_api_key"),
        ("GET", "/v1/models", {"authorization": "Bearer wrong"}, "127.0.0.1", 401, "invalid_api_key"),
        ("GET", "/v1/models", {"authorization": "Basic dG9w"}, "127.0.0.1", 401, "invalid_api_key"),
        ("GET", "/v1/models", USER, "elsewhere", 200, None),
        ("DELETE", "/api/cache", {}, "127.0.0.1", 401, "invalid_api_key"),
        ("DELETE", "/api/cache", USER, "127.0.0.1", 403, "admin_key_required"),
        ("DELETE", "/api/cache", ADMIN, "elsewhere", 200, None),
        ("POST", "/debug/fault", USER, "127.0.0.1", 403, "admin_key_required"),
    ],
)
async def test_who_may_do_what(
    built: Built, method: str, path: str, headers: dict[str, str], peer: str, status: int, code: str | None
) -> None:
    """Keys, roles and the anonymous caller of this machine; refusals come in OpenAI's envelope."""
    async with built.client(peer) as http:
        reply = await http.request(method, path, headers=headers)
    assert reply.status_code == status
    if code is not None:
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert reply.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/api/cache/evict", {"expired": True}, 200, None),
        ("/api/cache/evict", {"fraction": 0.5}, 200, None),
        ("/api/cache/evict", {"fraction": 0}, 400, "fraction"),
        ("/api/cache/evict", {"fraction": True}, 400, "fraction"),
        ("/api/cache/evict", {"expired": "yes"}, 400, "expired"),
        ("/api/cache/evict", {}, 400, None),
        ("/api/cache/evict", [], 400, None),
        ("/api/providers/p/circuit", {"state": "open", "seconds": 5, "reason": "r"}, 200, None),
        ("/api/providers/p/circuit", {"state": "ajar"}, 400, "state"),
        ("/api/providers/p/circuit", {"state": "open", "seconds": -1}, 400, "seconds"),
        ("/api/providers/p/circuit", {"state": "open", "reason": 5}, 400, "reason"),
        ("/api/providers/q/circuit", {"state": "open"}, 404, None),
        ("/api/providers/p/circuit", {"state": "open", "model": "m"}, 200, None),
        ("/api/providers/p/circuit", {"state": "open", "model": "n"}, 404, None),
        ("/api/providers/p/circuit", {"state": "open", "model": 5}, 400, "model"),
        ("/api/providers/p/keys/main", {"state": "retired", "grace_seconds": 60}, 200, None),
        ("/api/providers/p/keys/main", {"state": "active"}, 200, None),
        ("/api/providers/p/keys/main", {"state": "dead"}, 400, "state"),
        ("/api/providers/p/keys/main", {"state": "retired", "grace_seconds": "long"}, 400, "grace_seconds"),
        ("/api/providers/p/keys/other", {"state": "active"}, 404, None),
        ("/api/providers/q/keys/main", {"state": "active"}, 404, None),
        ("/debug/fault", {"kind": "meteor"}, 400, "kind"),
        ("/debug/fault", {"kind": "block", "seconds": "long"}, 400, "seconds"),
        ("/debug/fault", {"kind": "leak", "mb": 1}, 200, None),
    ],
)
async def test_administrative_calls_are_checked(
    built: Built, path: str, body: Any, status: int, param: str | None
) -> None:
    """What is asked wrongly is refused with the name of the parameter, never tried."""
    async with built.client() as http:
        reply = await http.post(path, headers=ADMIN, json=body)
    assert reply.status_code == status, reply.text
    if status != 200:
        assert reply.json()["error"]["param"] == param


async def test_errors_keep_their_headers_and_bugs_become_a_500(built: Built) -> None:
    """A refusal carries its headers and x-should-retry; a bug is a 500 in the envelope and one logged traceback."""
    async with built.client() as http:
        refused = await http.post("/v1/chat/completions", content=b"refuse")
        broken = await http.post("/v1/chat/completions", content=b"break", headers={"x-request-id": "mine-1"})
    assert (refused.status_code, refused.headers["retry-after"], refused.headers["x-should-retry"]) == (
        429,
        "3",
        "false",
    )
    assert (broken.status_code, broken.json()["error"]["code"]) == (500, "internal_error")
    lines = [json.loads(line) for line in built.logged().splitlines()]
    (bug,) = [line for line in lines if line["level"] == "ERROR"]
    assert bug["request_id"] == "mine-1" == broken.headers["x-request-id"]
    assert "KeyError: 'a bug'" in bug["exception"]
    assert [line["status"] for line in lines if line["message"] == "request"] == [429, 500]


async def test_bodies_and_work_in_hand_are_bounded(built: Built) -> None:
    """A body over the limit is a 413 and reaches nobody; with max_in_flight in hand the next gets 503 at once, while
    health still answers."""
    async with built.client() as http:
        assert (await http.post("/v1/chat/completions", content=b"x" * 2000)).status_code == 413
        assert built.gateway.asked == []
        first = asyncio.ensure_future(http.post("/v1/chat/completions", content=b"wait"))
        while not built.gateway.asked:
            await asyncio.sleep(0)
        second = await http.post("/v1/chat/completions", content=b"")
        assert (second.status_code, second.headers["retry-after"]) == (503, "1")
        assert (await http.get("/health/live")).status_code == 200
        built.gateway.release.set()
        assert (await first).status_code == 200
        assert (await http.post("/v1/chat/completions", content=b"")).status_code == 200


async def test_a_draining_or_useless_worker_is_not_ready(built: Built) -> None:
    """Readiness fails without a usable provider and while draining, when answers also close the connection."""
    async with built.client() as http:
        built.gateway.well = False
        assert (await http.get("/health/ready")).status_code == 503
        assert (await http.get("/health")).json()["status"] == "unhealthy"
        built.gateway.well, built.app.draining = True, True
        draining = await http.get("/health/ready")
        assert (draining.status_code, draining.headers["connection"]) == (503, "close")
        assert (await http.get("/health/live")).status_code == 200


async def test_a_client_that_goes_away_ends_its_stream_at_once(built: Built) -> None:
    """When the connection is closed, the stream's source is closed and the request counted as lost."""
    reader, writer = await asyncio.open_connection("127.0.0.1", built.ports["127.0.0.1"])
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 6\r\n\r\nstream")
    async with asyncio.timeout(45):
        await reader.readuntil(b"data: 1\n\n\r\n")
        assert not built.gateway.closed.is_set()
        assert built.app.in_flight == 1
        writer.close()
        await built.gateway.closed.wait()
        while built.app.in_flight:
            await asyncio.sleep(0)
    await writer.wait_closed()
    assert json.loads(built.logged().splitlines()[-1])["status"] == 499


async def test_a_stream_whose_source_breaks_is_cut(built: Built) -> None:
    """An answer that was begun and cannot be completed never looks complete, and the bug is logged."""
    async with built.client() as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post("/v1/chat/completions", content=b"torn")
    assert "KeyError: 'torn'" in built.logged()


async def test_the_end_of_a_worker_is_told_to_who_still_waits(built: Built) -> None:
    """A request that is cancelled because the worker's time is over gets a 503 in the envelope."""
    async with built.client() as http:
        waiting = asyncio.ensure_future(http.post("/v1/chat/completions", content=b"wait"))
        while not built.gateway.asked:
            await asyncio.sleep(0)
        await asyncio.gather(*(server.drain(0) for server in built.servers))
        reply = await waiting
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "shutting_down")


async def test_neither_keys_nor_bodies_reach_the_log(built: Built) -> None:
    """The log tells of a request without its key and its body."""
    async with built.client() as http:
        await http.post("/v1/chat/completions", content=b"a very private prompt", headers=ADMIN)
        await http.get("/v1/models", headers={"authorization": "Bearer very-wrong-key"})
    log = built.logged()
    assert '"caller":"boss"' in log
    for secret in ("top", "very-wrong-key", "private prompt"):
        assert secret not in log
