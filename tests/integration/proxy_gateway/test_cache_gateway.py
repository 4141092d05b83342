"""The response cache as callers see it, and the gateway's secrets and figures."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.call import Operation
from proxy.dialects.sse import DONE
from proxy.errors import ConfigError
from proxy.metrics import read


def header(reply: Any, name: bytes) -> bytes | None:
    return dict(reply.headers).get(name)


async def test_cache_answers_a_repeated_request(make_gateway: Any, ask: Any, alpha: Any) -> None:
    """The second of two equal requests is answered from the cache, with its age, and the provider not asked."""
    gateway = await make_gateway()
    first = await ask.whole(gateway)
    asked = alpha.seen()["requests"]
    second = await ask.whole(gateway)
    assert (header(first, b"x-cache"), header(second, b"x-cache"), header(second, b"age")) == (b"miss", b"hit", b"0")
    assert first.body == second.body
    assert alpha.seen()["requests"] == asked


async def test_cache_keeps_callers_apart(make_gateway: Any, ask: Any) -> None:
    """One caller's answer is never given to another."""
    gateway = await make_gateway()
    await ask.whole(gateway, caller="anna")
    assert header(await ask.whole(gateway, caller="ben"), b"x-cache") == b"miss"


async def test_cache_control_is_obeyed(make_gateway: Any, ask: Any) -> None:
    """`no-store` leaves no trace, `no-cache` asks the provider and stores the new answer."""
    gateway = await make_gateway()
    assert header(await ask.whole(gateway, cache_control="no-store"), b"x-cache") == b"bypass"
    assert header(await ask.whole(gateway), b"x-cache") == b"miss"
    assert header(await ask.whole(gateway, cache_control="no-cache"), b"x-cache") == b"bypass"
    assert header(await ask.whole(gateway), b"x-cache") == b"hit"


async def test_cache_answers_a_streaming_request(make_gateway: Any, ask: Any) -> None:
    """A stream that came to its end is stored as an answer, and told as a stream to whoever asks for one."""
    gateway = await make_gateway()
    await ask.stream(gateway, "streamed only")
    assert header(await ask.whole(gateway, "streamed only"), b"x-cache") == b"hit"
    reply, received = await ask.stream(gateway, "streamed only")
    assert (header(reply, b"x-cache"), header(reply, b"content-type")) == (b"hit", b"text/event-stream")
    assert b"alpha heard: streamed only" in received
    assert received.endswith(DONE)


async def test_cache_never_stores_errors(make_gateway: Any, alpha: Any) -> None:
    """A caller's error is asked anew each time."""
    gateway = await make_gateway()
    for _ in range(2):
        reply = await gateway.answer(Operation.CHAT, b'{"model": "m", "messages": []}', {}, "me", "r")
        assert (reply.status, header(reply, b"x-cache")) == (400, b"miss")
    assert gateway.cache_health()["entries"] == 0


async def test_cache_disabled_is_said(make_gateway: Any, ask: Any) -> None:
    """Without a cache everything bypasses it and its health says so."""
    gateway = await make_gateway(cache={"enabled": False})
    await ask.whole(gateway)
    assert header(await ask.whole(gateway), b"x-cache") == b"bypass"
    assert gateway.cache_health()["status"] == "disabled"


@pytest.mark.parametrize(("entries", "status"), [(18, "healthy"), (19, "warning"), (20, "critical")])
async def test_cache_health_by_usage(make_gateway: Any, ask: Any, entries: int, status: str) -> None:
    """Above 90 % of a limit the cache warns, above 95 % it is critical."""
    gateway = await make_gateway(cache={"max_entries": 20, "eviction_threshold": 1})
    for number in range(entries):
        await ask.whole(gateway, f"text {number}")
    health = gateway.cache_health()
    assert (health["entries"], health["status"]) == (entries, status)


async def test_cache_is_emptied_by_its_operators(make_gateway: Any, ask: Any) -> None:
    """Evicting a half and flushing tell what they did, and requests go on."""
    gateway = await make_gateway()
    for number in range(10):
        await ask.whole(gateway, f"text {number}")
    evicted = gateway.evict_cache(expired=False, fraction=0.5)
    assert (evicted["evicted"], evicted["entries"]) == (5, 5)
    assert gateway.evict_cache(expired=True, fraction=None)["evicted"] == 0
    assert gateway.flush_cache() == {"flushed": 5, "flushes": 1}
    assert header(await ask.whole(gateway, "text 9"), b"x-cache") == b"miss"


async def test_gateway_figures_reach_the_metrics(make_gateway: Any, ask: Any, alpha: Any, tmp_path: Path) -> None:
    """Attempts, errors by class, circuits and the cache are in the metrics file."""
    gateway = await make_gateway(breaker={"consecutive_failures": 1, "cooldown": "1h", "cooldown_max": "1h"})
    alpha.behave("500")
    await ask.whole(gateway)
    await ask.whole(gateway)
    gateway._caches.tick()
    gateway._refresh()
    families = read(tmp_path / "run" / "metrics")

    def value(name: str, *labels: str) -> float:
        return families[name].series[labels][0]

    assert value("provider_requests_total", "alpha") == value("provider_requests_total", "beta") == 1
    assert value("provider_errors_total", "alpha", "outage") == 1
    assert (value("provider_circuit_state", "alpha"), value("provider_circuit_state", "beta")) == (2, 0)
    assert [value(f"cache_{name}", "response") for name in ("hits_total", "misses_total", "entries")] == [1, 1, 1]
    assert value("cache_hit_rate", "response") == 0.5
    assert sum(families["provider_latency_seconds"].series["beta",][:-1]) == 1


async def test_key_reaches_the_provider_and_nobody_else(make_gateway: Any, ask: Any, tmp_path: Path) -> None:
    """The provider gets the configured key, never the caller's; health shows its name only."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head)
        answer = orjson.dumps({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]})
        limits = b"x-ratelimit-remaining-requests: 41\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n" + limits + b"content-length: %d\r\n\r\n%b" % (len(answer), answer))
        await writer.drain()
        writer.close()

    secret = tmp_path / "key"
    secret.write_text("sk-secret\n")
    secret.chmod(0o600)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        gateway = await make_gateway(
            providers=[
                {
                    "name": "own",
                    "kind": "openai",
                    "base_url": f"http://127.0.0.1:{port}/v1",
                    "api_key_file": str(secret),
                }
            ]
        )
        await ask.whole(gateway, authorization="Bearer callers")
    head = seen[0].lower()
    assert head.startswith(b"post /v1/chat/completions ")
    assert b"authorization: bearer sk-secret\r\n" in head
    assert b"callers" not in head
    assert b"x-request-id: req-1\r\n" in head
    health = gateway.providers_health()["own"]
    assert (health["keys"], health["rate_limit_remaining"]) == ([{"id": "key-1", "state": "active"}], 41)


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (None, 0, "cannot read"),
        ("sk-x", 0o644, "open to other users"),
        ("", 0o600, "does not hold a key"),
        ("two words", 0o600, "does not hold a key"),
    ],
)
async def test_unusable_secret_is_a_config_error(
    make_gateway: Any, tmp_path: Path, content: str | None, mode: int, says: str
) -> None:
    """A secret that is missing, readable by others or no key is refused with its file's name, before any request."""
    secret = tmp_path / "key"
    if content is not None:
        secret.write_text(content)
        secret.chmod(mode)
    provider = {"name": "own", "kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key_file": str(secret)}
    with pytest.raises(ConfigError, match=says) as caught:
        await make_gateway(providers=[provider])
    assert str(secret) in str(caught.value)


async def test_unusable_state_directory_is_a_config_error(make_gateway: Any, tmp_path: Path) -> None:
    """A state directory that is a file is refused with its name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state_dir"):
        await make_gateway(state_dir=tmp_path / "file" / "state")
