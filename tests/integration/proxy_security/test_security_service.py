"""Limits, keys and logs of a real service with two workers, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import signal
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plain_http
import pytest
from proxy_service import Service, make_service

from proxy.limits.window import RING

KEYS = {name: secrets.token_urlsafe(24) for name in ("flood", "few", "streams", "plain")}
LIMIT, WINDOW = 200, 2.0


def key(name: str, **limit: Any) -> dict[str, Any]:
    made = {"id": name, "sha256": hashlib.sha256(KEYS[name].encode()).hexdigest()}
    return made | ({"limit": limit} if limit else {})


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        made = make_service(Path(name))
        made.settings["auth"]["anonymous_loopback"] = "owner"
        made.settings["auth"]["keys"] += [
            key("flood", requests=LIMIT, window=f"{WINDOW}s"),
            key("few", requests=3, tokens=1_000_000, window="1h"),
            key("streams"),
            key("plain"),
        ]
        made.settings["limits"] = {"max_streams_per_key": 1}
        made.settings["log"]["file"] = str(Path(name) / "logs" / "llm_proxy.log")
        made.start()
        yield made
        made.end()


async def flood(port: int, until: float, admitted: list[tuple[float, float]], refused: list[float]) -> None:
    """Asks as fast as it is answered, over a new connection now and then, so that each worker gets some."""
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEYS['flood']}\r\n"
        "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    ).encode()
    while time.monotonic() < until:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                for _ in range(20):
                    asked = time.monotonic()
                    writer.write(request)
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    await reader.readexactly(length)
                    if b" 429 " in head[:16]:
                        refused.append(asked)
                    else:
                        admitted.append((asked, time.monotonic()))
            finally:
                writer.close()


async def test_two_workers_let_exactly_the_limit_through(service: Service) -> None:
    """Under a flood over both workers, and while one is being recycled, each window gets its limit to within 1 %."""
    port = service.ask("GET", "/status")[1]["port"]
    admitted: list[tuple[float, float]] = []
    refused: list[float] = []
    until = time.monotonic() + 2.6 * WINDOW
    floods = [asyncio.create_task(flood(port, until, admitted, refused)) for _ in range(12)]
    await asyncio.sleep(0.5 * WINDOW)  # the fault comes in the middle of the load
    recycled = await asyncio.to_thread(service.ask, "POST", "/workers/0/recycle")
    assert recycled[0] == 200
    await asyncio.gather(*floods)
    assert len(refused) > LIMIT
    assert 3 * LIMIT <= len(admitted) <= 3 * LIMIT * 1.01
    # A request passed at some moment between its question and its answer: count those that surely lie in one window.
    surely = [sum(asked <= other and end < asked + WINDOW for other, end in admitted) for asked, _ in admitted]
    assert LIMIT * 0.9 < max(surely) <= LIMIT * 1.01
    assert sum(map(bool, rows_that_counted(service.place / "run" / "limits.counters"))) >= 2


def rows_that_counted(file: Path) -> list[int]:
    """How many cells each row has written to: the file's own form, read without the code under test."""
    data = file.read_bytes()
    room, _, rows = struct.unpack_from("=QQQ", data, 24)
    first, stride = 64 + room * 16, room * RING * 8
    return [len(data[first + row * stride :][:stride].replace(b"\0", b"")) for row in range(rows)]


def test_answers_tell_of_the_limit_and_a_restart_forgets_nothing(service: Service) -> None:
    """Headers stand on every answer of a bounded route, errors too; the fourth of three is refused, by any worker, and
    still is after the service was restarted."""
    url = service.url("/v1/chat/completions")
    good = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
    answers = [plain_http.post(url, json=body, headers=bearer("few")) for body in (good, {"model": "demo"}, good, good)]
    assert [answer.status_code for answer in answers] == [200, 400, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
    spent = [1_000_000 - int(answer.headers["x-ratelimit-remaining-tokens"]) for answer in answers]
    assert spent[0] == 0
    assert spent[2] == answers[0].json()["usage"]["total_tokens"] > 0
    assert answers[3].headers["x-ratelimit-reset-requests"].startswith(("1h0m", "59m5"))
    assert 3500 < int(answers[3].headers["retry-after"]) <= 3615
    assert answers[3].json()["error"]["code"] == "rate_limit_exceeded"
    assert "x-ratelimit-limit-requests" not in plain_http.post(url, json=good, headers=bearer("plain")).headers
    assert service.stop() == 0
    service.start()
    again = plain_http.post(service.url("/v1/chat/completions"), json=good, headers=bearer("few"))
    assert again.status_code == 429


def test_a_keys_second_stream_waits_for_the_first(service: Service) -> None:
    """With one stream allowed per worker, as many as there are workers can be open; each that ends makes room."""
    port = service.settings["providers"][0]["port"]
    plain_http.post(
        f"http://127.0.0.1:{port}/_demo/behaviour", json={"mode": "ok", "chunks": 200, "chunk_delay_seconds": 0.1}
    )

    def body() -> dict[str, Any]:
        return {"model": "demo", "stream": True, "messages": [{"role": "user", "content": secrets.token_hex(8)}]}

    url = service.url("/v1/chat/completions")
    try:
        with contextlib.ExitStack() as opened:
            statuses = []
            for _ in range(8):
                client = opened.enter_context(plain_http.Client(timeout=30))
                answer = opened.enter_context(client.stream("POST", url, json=body(), headers=bearer("streams")))
                statuses.append(answer.status_code)
                if answer.status_code == 429:
                    assert json.loads(answer.read())["error"]["type"] == "streams"
            assert 1 <= statuses.count(200) <= 2
            assert statuses.count(429) == 8 - statuses.count(200)

        def free() -> bool:
            with plain_http.stream("POST", url, json=body(), headers=bearer("streams")) as answer:
                return answer.status_code == 200

        assert all(service.until(free) for _ in range(4))
    finally:
        plain_http.post(f"http://127.0.0.1:{port}/_demo/behaviour", json={"mode": "ok"})


def test_failures_and_admin_calls_are_known_to_the_whole_service(service: Service) -> None:
    """Whichever workers met them, /metrics/security tells of them all; the proxy's own user may ask without a key, a
    page in a browser may not."""
    url = service.url("/metrics/security")
    before = plain_http.get(url).json()
    with plain_http.Client(headers={"connection": "close"}) as client:
        for number in range(6):
            bad = {"x-api-key": f"bad-{number}"}
            assert client.get(service.url("/v1/models"), headers=bad).status_code == 401
    assert plain_http.get(url, headers=bearer("plain")).status_code == 403
    assert plain_http.get(url, headers={"origin": "http://evil.example"}).status_code == 401
    assert plain_http.get(url, headers={"host": "evil.example"}).status_code == 401
    after = plain_http.get(url, headers=service.admin).json()
    assert after["failed_auth_attempts"] - before["failed_auth_attempts"] == 8
    assert after["failed_auth_by_reason"]["forbidden"] - before["failed_auth_by_reason"].get("forbidden", 0) == 1
    assert after["data_access"]["by_caller"]["admin"] == before["data_access"]["by_caller"].get("admin", 0) + 1
    assert after["data_access"]["by_caller"]["owner"] >= 1
    assert [failure["reason"] for failure in after["last_failures"][:3]] == ["missing", "missing", None]
    assert {failure["source"] for failure in after["last_failures"]} == {"127.0.0.1"}
    assert "bad-" not in json.dumps(after)
    log = Path(service.settings["log"]["file"])
    events = [json.loads(line) for line in log.with_name("security.log").read_text().splitlines()]
    assert {"failed_auth", "forbidden", "admin_call", "rate_limited"} <= {event["event"] for event in events}
    assert all({"timestamp", "level", "message", "event", "success", "key_id"} <= set(event) for event in events)


def test_logs_that_were_moved_away_are_opened_anew_by_signal(service: Service) -> None:
    """logrotate's way: after rename and SIGUSR1 to the master every worker writes to new files, and none has ended."""
    log = Path(service.settings["log"]["file"])
    pids = [worker["pid"] for worker in service.workers()]
    moved = [file.rename(file.with_name(file.name + ".moved")) for file in (log, log.with_name("security.log"))]
    inodes = {file.stat().st_ino for file in moved}
    os.kill(service.masters[-1].pid, signal.SIGUSR1)

    def followed() -> bool:
        held = [descriptor.stat().st_ino for pid in pids for descriptor in Path(f"/proc/{pid}/fd").iterdir()]
        return log.exists() and not inodes & set(held)

    service.until(followed)
    assert [worker["pid"] for worker in service.workers()] == pids


def test_a_key_is_rotated_in_its_file(service: Service) -> None:
    """Both workers take the admin key's new content within seconds, and the old one opens nothing any more."""
    old = service.admin
    (service.place / "admin.key").write_text(secrets.token_urlsafe(32) + "\n")

    url = service.url("/metrics/security")
    with plain_http.Client(headers={"connection": "close"}) as client:

        def all_refuse() -> bool:
            return {client.get(url, headers=old).status_code for _ in range(12)} <= {401, 429}

        service.until(all_refuse)
        assert {client.get(url, headers=service.admin).status_code for _ in range(12)} == {200}
