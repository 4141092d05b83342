"""The gateway before real upstreams that misbehave in every way they can."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest

from proxy.call import Operation
from proxy.dialects.sse import DONE
from proxy.errors import ApiError
from proxy.routing.breaker import State

STREAMED = [False, True]


def header(reply: Any, name: bytes) -> bytes:
    return dict(reply.headers).get(name, b"")


async def deliver(gateway: Any, ask: Any, stream: bool, text: str = "hello") -> tuple[Any, str]:
    """The reply and the text in it."""
    if not stream:
        reply = await ask.whole(gateway, text, cache_control="no-store")
        return reply, orjson.loads(reply.body)["choices"][0]["message"]["content"]
    reply, received = await ask.stream(gateway, text)
    chunks = [orjson.loads(line[6:]) for line in received.splitlines() if line.startswith(b"data: {")]
    return reply, "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


@pytest.mark.parametrize("stream", STREAMED)
@pytest.mark.parametrize(
    ("mode", "how", "fault"),
    [
        ("401", {}, "auth"),
        ("429", {"retry_after": 7}, "quota"),
        ("500", {}, "outage"),
        ("503", {}, "outage"),
        ("silent", {}, "timeout"),
        ("slow", {"delay_seconds": 30}, "timeout"),
        ("cut", {"after_chunks": 0}, "network"),
        ("stall", {"after_chunks": 0}, "timeout"),
    ],
)
async def test_failing_provider_is_failed_over(
    make_gateway: Any, ask: Any, alpha: Any, mode: str, how: dict[str, Any], fault: str, stream: bool
) -> None:
    """Whatever goes wrong before the first content, the next provider answers and the fault gets its own class."""
    gateway = await make_gateway()
    alpha.behave(mode, **how)
    reply, text = await deliver(gateway, ask, stream)
    assert (reply.status, header(reply, b"x-provider")) == (200, b"beta")
    assert text.strip() == "beta heard: hello"
    health = gateway.providers_health()
    assert health["alpha"]["fault"] == fault
    assert (health["alpha"]["errors"], health["beta"]["errors"]) == (1, 0)


async def test_malformed_answer_is_failed_over(make_gateway: Any, ask: Any, alpha: Any) -> None:
    """A 200 that is not JSON is the provider's failure, and nothing of it reaches the caller or the cache."""
    gateway = await make_gateway()
    alpha.behave("malformed")
    reply = await ask.whole(gateway)
    assert header(reply, b"x-provider") == b"beta"
    assert gateway.providers_health()["alpha"]["fault"] == "malformed"


@pytest.mark.parametrize("stream", STREAMED)
async def test_slow_provider_within_its_limit_is_waited_for(
    make_gateway: Any, ask: Any, alpha: Any, stream: bool
) -> None:
    """Slowness below the limit is no failure."""
    gateway = await make_gateway()
    alpha.behave("slow", delay_seconds=0.3)
    reply, text = await deliver(gateway, ask, stream)
    assert (header(reply, b"x-provider"), text.strip()) == (b"alpha", "alpha heard: hello")


async def test_silent_provider_is_asked_once(make_gateway: Any, ask: Any, alpha: Any, beta: Any) -> None:
    """With all providers silent each is asked once, and the caller hears of the timeout after two limits, not more."""
    gateway = await make_gateway()
    alpha.behave("silent")
    beta.behave("silent")
    before = alpha.seen()["requests"], beta.seen()["requests"]
    began = time.monotonic()
    with pytest.raises(ApiError) as caught:
        await ask.whole(gateway)
    assert time.monotonic() - began < 4
    assert (caught.value.status, caught.value.code, caught.value.retryable) == (504, "upstream_timeout", False)
    assert (alpha.seen()["requests"], beta.seen()["requests"]) == (before[0] + 1, before[1] + 1)


async def test_all_failed_tells_the_first_error(make_gateway: Any, ask: Any, alpha: Any, beta: Any) -> None:
    """When all fail the caller hears the first provider's error; our refused key is not blamed on the caller's."""
    gateway = await make_gateway()
    alpha.behave("503")
    beta.behave("401")
    with pytest.raises(ApiError) as caught:
        await ask.whole(gateway)
    assert (caught.value.status, caught.value.message) == (503, "The engine is currently overloaded.")
    alpha.behave("401")
    beta.behave("500")
    with pytest.raises(ApiError) as caught:
        await ask.whole(gateway)
    assert (caught.value.status, caught.value.code) == (502, "upstream_credentials_exhausted")


async def test_callers_own_error_is_passed_through(make_gateway: Any, ask: Any, beta: Any) -> None:
    """A 400 from the provider is the answer: nobody else is asked and no circuit minds."""
    gateway = await make_gateway()
    before = beta.seen()["requests"]
    reply = await gateway.answer(Operation.CHAT, b'{"model": "demo-small", "messages": []}', {}, "me", "r")
    assert (reply.status, orjson.loads(reply.body)["error"]["type"]) == (400, "invalid_request_error")
    assert beta.seen()["requests"] == before
    assert gateway.providers_health()["alpha"]["fault"] is None


async def test_unknown_model_is_404(make_gateway: Any, ask: Any, alpha: Any) -> None:
    """A model that no provider is configured for is an error of the caller's."""
    gateway = await make_gateway(
        providers=[{"name": "alpha", "kind": "local", "port": alpha.port, "models": ["demo-large"]}]
    )
    with pytest.raises(ApiError) as caught:
        await ask.whole(gateway)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert [model["id"] for model in gateway.models()["data"]] == ["demo-large"]


async def test_open_circuits_are_tried_when_there_is_nothing_else(
    make_gateway: Any, ask: Any, alpha: Any, beta: Any
) -> None:
    """With every circuit open a request is tried anyway, and its success closes the circuit."""
    gateway = await make_gateway(breaker={"cooldown": "1h", "cooldown_max": "1h"})
    alpha.behave("401")
    beta.behave("401")
    with pytest.raises(ApiError):
        await ask.whole(gateway)
    assert not gateway.usable()
    alpha.behave("ok")
    assert header(await ask.whole(gateway), b"x-provider") == b"alpha"
    assert gateway.usable()
    assert gateway.providers_health()["alpha"]["fault"] is None


async def test_open_circuit_is_left_alone(make_gateway: Any, ask: Any, alpha: Any) -> None:
    """After three failures in a row requests go straight to the second provider."""
    gateway = await make_gateway(breaker={"cooldown": "1h", "cooldown_max": "1h"})
    alpha.behave("500")
    for number in range(3):
        await ask.whole(gateway, f"text {number}")
    before = alpha.seen()["requests"]
    for number in range(5):
        assert header(await ask.whole(gateway, f"more {number}"), b"x-provider") == b"beta"
    assert alpha.seen()["requests"] == before
    health = gateway.providers_health()["alpha"]
    assert (health["circuit"], health["status"], health["requests"]) == ("open", "unhealthy", 3)
    assert health["retry_at"] > time.time() + 3000


@pytest.mark.parametrize("mode", ["500", "401", "silent"])
async def test_idle_primary_is_back_in_bounded_time(
    make_gateway: Any, ask: Any, until: Any, alpha: Any, mode: str
) -> None:
    """Without any traffic a recovered primary's circuit closes within seconds, and the next request goes there."""
    gateway = await make_gateway(breaker={"consecutive_failures": 1, "cooldown": "200ms", "cooldown_max": "400ms"})
    alpha.behave(mode)
    assert header(await ask.whole(gateway), b"x-provider") == b"beta"
    assert gateway.providers_health()["alpha"]["circuit"] == "open"
    chats = alpha.seen()["requests"]
    alpha.behave("ok")
    await until(lambda: gateway.providers_health()["alpha"]["circuit"] == "closed")
    assert gateway.providers_health()["alpha"]["fault"] is None
    assert alpha.seen()["requests"] == chats
    assert header(await ask.whole(gateway, "again"), b"x-provider") == b"alpha"


async def test_forced_circuit(make_gateway: Any, ask: Any) -> None:
    """An operator can take a provider out for a time and put it back; an unknown name is an error."""
    gateway = await make_gateway()
    shown = gateway.set_circuit("alpha", State.OPEN, 600, "drill")
    assert (shown["circuit"], shown["forced"], shown["last_error"]) == ("open", True, "forced open: drill")
    assert header(await ask.whole(gateway), b"x-provider") == b"beta"
    assert gateway.set_circuit("alpha", State.CLOSED, 0, "drill over")["circuit"] == "closed"
    assert header(await ask.whole(gateway, "again"), b"x-provider") == b"alpha"
    with pytest.raises(KeyError):
        gateway.set_circuit("gamma", State.OPEN, 1, "")


async def test_provider_that_refuses_connections_is_a_network_fault(
    make_gateway: Any, ask: Any, beta: Any, unused_tcp_port: int
) -> None:
    """A port where nobody listens is a network fault, a name that does not resolve a DNS fault, plain TCP no TLS."""
    providers = [
        {"name": "closed", "kind": "openai", "base_url": f"http://127.0.0.1:{unused_tcp_port}/v1"},
        {"name": "unnamed", "kind": "openai", "base_url": "http://nowhere.invalid/v1"},
        {"name": "plain", "kind": "openai", "base_url": f"https://127.0.0.1:{beta.port}/v1"},
        {"name": "beta", "kind": "local", "port": beta.port},
    ]
    gateway = await make_gateway(providers=providers, timeouts={"first_byte": "5s", "answer": "5s"})
    assert header(await ask.whole(gateway), b"x-provider") == b"beta"
    faults = {name: health["fault"] for name, health in gateway.providers_health().items()}
    assert faults == {"closed": "network", "unnamed": "dns", "plain": "tls", "beta": None}


async def test_cut_stream_ends_in_an_error_frame(make_gateway: Any, ask: Any, alpha: Any) -> None:
    """A stream cut after its first content delivers what came and never ends as if it were whole."""
    gateway = await make_gateway()
    alpha.behave("cut", after_chunks=2)
    reply, received = await ask.stream(gateway)
    assert header(reply, b"x-provider") == b"alpha"
    assert b"heard" in received
    assert DONE not in received
    assert orjson.loads(received.split(b"data: ")[-1])["error"]["code"] == "stream_cut"
    assert gateway.providers_health()["alpha"]["fault"] == "network"


async def test_stalled_stream_ends_in_an_error_frame(make_gateway: Any, ask: Any, until: Any, alpha: Any) -> None:
    """A stream that stops coming is ended after the idle limit, and its connection is closed."""
    gateway = await make_gateway()
    alpha.behave("stall", after_chunks=2)
    gone = alpha.seen()["client_disconnects"]
    began = time.monotonic()
    _, received = await ask.stream(gateway)
    assert 0.9 < time.monotonic() - began < 5
    assert DONE not in received
    assert orjson.loads(received.split(b"data: ")[-1])["error"]["code"] == "stream_stalled"
    await until(lambda: alpha.seen()["client_disconnects"] == gone + 1)


@pytest.mark.parametrize("after", [0, 2])
async def test_malformed_chunk_is_left_out(make_gateway: Any, ask: Any, alpha: Any, after: int) -> None:
    """A malformed chunk is left out and everything else is delivered to the end."""
    gateway = await make_gateway()
    alpha.behave("malformed", after_chunks=after)
    _, text = await deliver(gateway, ask, stream=True)
    assert text.strip() == "alpha heard: hello"
    _, received = await ask.stream(gateway, "again")
    assert received.endswith(DONE)
    assert b"chatcmpl-broken" not in received


@pytest.mark.parametrize("held_open", [0, 30])
async def test_stream_without_done_is_finished(make_gateway: Any, ask: Any, alpha: Any, held_open: float) -> None:
    """A stream that came to its finish_reason gets its [DONE] promptly, even if the provider never sends one."""
    gateway = await make_gateway()
    alpha.behave("no_done", delay_seconds=held_open)
    began = time.monotonic()
    _, received = await ask.stream(gateway)
    assert time.monotonic() - began < 5
    assert received.endswith(DONE)
    assert gateway.providers_health()["alpha"]["fault"] is None


async def test_stream_carries_usage_when_asked(make_gateway: Any, ask: Any) -> None:
    """`stream_options.include_usage` reaches the provider, and its usage chunk the caller."""
    gateway = await make_gateway()
    _, received = await ask.stream(gateway, stream_options={"include_usage": True})
    assert received.count(DONE) == 1
    assert b'"usage":{"prompt_tokens"' in received


@pytest.mark.parametrize("read_first", [True, False])
async def test_caller_gone_closes_the_upstream_at_once(
    make_gateway: Any, until: Any, alpha: Any, read_first: bool
) -> None:
    """A caller that leaves a stream, begun or not yet begun, closes the provider's connection at once."""
    gateway = await make_gateway()
    alpha.behave(chunks=1000, chunk_delay_seconds=0.05)
    gone = alpha.seen()["client_disconnects"]
    request = orjson.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]})
    reply = await gateway.answer(Operation.CHAT, request, {}, "me", "r")
    assert alpha.seen()["open_streams"] == 1
    if read_first:
        await anext(reply.body)
    await reply.body.aclose()
    await until(lambda: alpha.seen()["open_streams"] == 0, seconds=2)
    assert alpha.seen()["client_disconnects"] == gone + 1
    assert gateway.providers_health()["alpha"]["errors"] == 0


async def test_caller_gone_before_an_answer_closes_the_upstream_at_once(
    make_gateway: Any, ask: Any, until: Any, alpha: Any
) -> None:
    """A request cancelled while the provider is silent is cancelled there too."""
    gateway = await make_gateway(timeouts={"first_byte": "30s", "answer": "30s"})
    alpha.behave("silent")
    before = alpha.seen()
    task = asyncio.create_task(ask.whole(gateway))
    await until(lambda: alpha.seen()["requests"] == before["requests"] + 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: alpha.seen()["client_disconnects"] == before["client_disconnects"] + 1, seconds=2)


async def test_pooled_connections_are_kept_after_streams(make_gateway: Any, ask: Any, alpha: Any) -> None:
    """A stream that came to its end gives its connection back, so that the next request needs no new one."""
    gateway = await make_gateway()
    await ask.stream(gateway, "one")
    with_one = gateway.providers._upstream.connections
    await ask.stream(gateway, "two")
    assert with_one == gateway.providers._upstream.connections == 1
