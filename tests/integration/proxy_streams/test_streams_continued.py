"""Whole gateways whose providers' streams break, before callers and providers of both dialects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.call import Account, Operation
from proxy.clock import SystemClock
from proxy.dialects.sse import SseParser, data_of
from proxy.gateway import Gateway
from proxy.metrics import Metrics
from proxy.settings import Settings

TEXT = "one two three\nfour  five, six seven eight"
SUBJECTS: dict[Operation, dict[str, Any]] = {
    Operation.CHAT: {"messages": [{"role": "user", "content": "count"}]},
    Operation.MESSAGES: {"messages": [{"role": "user", "content": "count"}], "max_tokens": 1000},
    Operation.COMPLETIONS: {"prompt": "count: "},
}
TOOL = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}


@pytest.fixture(scope="module")
def _right(make_demo: Callable[[], Any]) -> Any:
    return make_demo()


@pytest.fixture
def right(_right: Any) -> Any:
    _right.behave(text=TEXT, chunk_characters=5)
    return _right


@pytest.fixture
def left(demo: Any) -> Any:
    demo.behave(text=TEXT)
    return demo


def provider(name: str, demo: Any, kind: str) -> dict[str, Any]:
    if kind == "local":
        return {"name": name, "kind": "local", "port": demo.port}
    return {"name": name, "kind": kind, "base_url": f"http://127.0.0.1:{demo.port}/v1", "api_key": "sk-test-" + name}


@pytest.fixture
async def make_gateway(left: Any, right: Any, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts a gateway whose model `m` is served by `left` and then `right`."""
    gateways: list[Gateway] = []

    async def make(kinds: tuple[str, str] = ("openai", "openai"), prefill: str = "no", **changes: Any) -> Gateway:
        wanted: dict[str, Any] = {
            "run_dir": tmp_path / "run",
            "state_dir": tmp_path / "state",
            "providers": [provider("left", left, kinds[0]), provider("right", right, kinds[1])],
            "models": [{"name": "m", "routes": [{"provider": "left"}, {"provider": "right"}], "prefill": prefill}],
            "timeouts": {"connect": "2s", "first_byte": "2s", "answer": "2s", "idle": "500ms", "total": "20s"},
            "retry": {"rounds": 0},
        }
        settings = Settings.model_validate(wanted | changes)
        gateway = Gateway(settings, Metrics(tmp_path / "run" / "metrics", f"t-{len(gateways)}"), SystemClock())
        await gateway.start()
        gateways.append(gateway)
        return gateway

    yield make
    for gateway in gateways:
        await gateway.close()


@dataclass(frozen=True)
class Told:
    """What a caller was told in a stream."""

    text: str
    reasoning: str
    arguments: str
    ids: set[str]
    end: str
    """`done`, or the code or type of the error."""
    account: Account


async def told(gateway: Gateway, operation: Operation = Operation.CHAT, **fields: Any) -> Told:
    """Asks for a stream and reads it as a caller of that operation does."""
    body = orjson.dumps({"model": "m", "stream": True, **SUBJECTS[operation], **fields})
    reply = await gateway.answer(operation, body, {}, "me", "req-1")
    assert not isinstance(reply.body, bytes)
    received = b"".join([part async for part in reply.body])
    await reply.body.aclose()  # type: ignore[attr-defined]
    data = [data_of(event) for event in SseParser().feed(received)]
    events = [{"done": True} if one == b"[DONE]" else orjson.loads(one) for one in data if one is not None]
    assert reply.account is not None
    read = _messages if operation is Operation.MESSAGES else _completions
    return read(events, reply.account)


def _completions(events: list[dict[str, Any]], account: Account) -> Told:
    assert all("choices" in event for event in events[:-1])
    choices = [choice for event in events for choice in event.get("choices", [])]
    deltas = [choice.get("delta") or {} for choice in choices]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    return Told(
        "".join(delta.get("content") or "" for delta in deltas) + "".join(choice.get("text", "") for choice in choices),
        "".join(delta.get("reasoning_content") or "" for delta in deltas),
        "".join(call["function"].get("arguments", "") for call in calls),
        {call["id"] for call in calls if "id" in call} | {event["id"] for event in events if "id" in event},
        "done" if events[-1].get("done") else events[-1]["error"]["code"],
        account,
    )


def _messages(events: list[dict[str, Any]], account: Account) -> Told:
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    starts = [event["index"] for event in events if event["type"] == "content_block_start"]
    stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
    done = events[-1]["type"] == "message_stop"
    assert starts == list(range(len(starts)))
    assert not done or starts == stops
    return Told(
        "".join(delta.get("text", "") for delta in deltas),
        "".join(delta.get("thinking", "") for delta in deltas),
        "".join(delta.get("partial_json", "") for delta in deltas),
        {event["message"]["id"] for event in events if event["type"] == "message_start"},
        "done" if done else events[-1]["error"]["type"],
        account,
    )


BREAKS: list[tuple[str, dict[str, Any]]] = [("cut", {}), ("stall", {}), ("error_frame", {})]
KINDS = [("openai", "openai"), ("openai", "anthropic"), ("anthropic", "openai"), ("anthropic", "anthropic")]


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.MESSAGES])
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
@pytest.mark.parametrize("prefill", ["no", "assistant"])
async def test_a_cut_answer_comes_to_its_end(
    make_gateway: Any, left: Any, right: Any, operation: Operation, kinds: tuple[str, str], prefill: str
) -> None:
    """Whatever caller and providers speak, and whether the other model continues a text or begins again: the caller
    gets the whole answer under one identity, and the account tells who ended it."""
    left.behave("cut", text=TEXT, after_chunks=5)
    gateway = await make_gateway(kinds, prefill)
    got = await told(gateway, operation)
    assert (got.text, got.end) == (TEXT, "done")
    assert len(got.ids) == 1
    account = got.account
    assert (account.provider, account.continued, account.attempts, account.error) == ("right", 1, 2, None)
    assert account.usage is not None
    assert account.usage.output > 0
    last = orjson.loads(right.client.get("/_demo/last").json()["body"])["messages"][-1]
    assert (last["role"] == "assistant") is (prefill == "assistant")


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.MESSAGES, Operation.COMPLETIONS])
@pytest.mark.parametrize("mode", ["stall", "error_frame"])
async def test_a_stalled_or_failed_answer_comes_to_its_end(
    make_gateway: Any, left: Any, operation: Operation, mode: str
) -> None:
    """A stall and an error frame are continued as a cut is."""
    left.behave(mode, text=TEXT, after_chunks=3)
    got = await told(await make_gateway(), operation)
    assert (got.text, got.end, got.account.continued) == (TEXT, "done", 1)


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
async def test_tool_calls_and_reasoning_come_to_their_end(
    make_gateway: Any, left: Any, right: Any, kinds: tuple[str, str]
) -> None:
    """A tool call that is cut in its arguments is made whole under its first id."""
    left.behave("cut", after_chunks=4)
    right.behave()
    tools = [{"type": "function", "function": {"name": "weather", "parameters": TOOL}}]
    got = await told(
        await make_gateway(kinds), tools=tools, messages=[{"role": "user", "content": "weather in 3 days"}]
    )
    assert (orjson.loads(got.arguments), got.end) == ({"city": "weather in 3 days", "days": 3}, "done")
    assert len(got.ids) == 2


async def test_reasoning_is_said_again_before_the_text_goes_on(make_gateway: Any, left: Any, right: Any) -> None:
    """An answer that was thinking when it was cut goes on where the same thoughts come again."""
    left.behave("cut", text=TEXT, reasoning="let me think about it", after_chunks=8)
    right.behave(text=TEXT, reasoning="let me think about it", chunk_characters=3)
    got = await told(await make_gateway(prefill="assistant"))
    assert (got.reasoning, got.text, got.end) == ("let me think about it", TEXT, "done")


async def test_another_text_is_never_joined(make_gateway: Any, left: Any, right: Any) -> None:
    """A provider that says something else is given up, and the caller is told of the cut after a true beginning."""
    left.behave("cut", text=TEXT, after_chunks=5)
    right.behave(text="one two four")
    got = await told(await make_gateway())
    assert got.end == "stream_cut"
    assert TEXT.startswith(got.text)
    assert got.text
    assert (got.account.continued, got.account.error) == (0, "stream_cut")


async def test_a_refused_prefill_is_begun_again(make_gateway: Any, left: Any, right: Any) -> None:
    """A 400 for the assistant's beginning hides nothing: the same model is asked to say it all."""
    left.behave("cut", text=TEXT, after_chunks=5)
    right.behave("refuse_prefill", text=TEXT)
    got = await told(await make_gateway(prefill="assistant"))
    assert (got.text, got.end, got.account.continued) == (TEXT, "done", 1)


async def test_a_continuation_may_be_cut_too(make_gateway: Any, left: Any, right: Any) -> None:
    """With both providers cutting the caller is told so in the end, after no more attempts than are allowed."""
    left.behave("cut", text=TEXT, after_chunks=3)
    right.behave("cut", text=TEXT, after_chunks=6)
    before = left.seen()["requests"] + right.seen()["requests"]
    got = await told(await make_gateway())
    assert got.end == "stream_cut"
    assert TEXT.startswith(got.text)
    assert left.seen()["requests"] + right.seen()["requests"] - before <= 3


async def test_continuing_can_be_turned_off(make_gateway: Any, left: Any, right: Any) -> None:
    """With `after_cut: error` nobody else is asked."""
    left.behave("cut", text=TEXT, after_chunks=3)
    before = right.seen()["requests"]
    got = await told(await make_gateway(streams={"after_cut": "error"}))
    assert (got.end, right.seen()["requests"]) == ("stream_cut", before)


async def test_a_filtered_answer_is_nobody_else_s(make_gateway: Any, left: Any, right: Any) -> None:
    """A content filter's finish is a finish: told as it is, and not continued."""
    left.behave("filter_finish", text=TEXT, after_chunks=3)
    before = right.seen()["requests"]
    got = await told(await make_gateway())
    assert (got.end, got.account.finish, got.account.continued) == ("done", "content_filter", 0)
    assert right.seen()["requests"] == before


async def test_a_streamed_answer_is_kept_whole(make_gateway: Any, left: Any) -> None:
    """What was streamed and continued to its end is in the cache as a whole answer; what was cut is not."""
    gateway = await make_gateway(cache={"enabled": True}, streams={"after_cut": "error"})
    left.behave("cut", text=TEXT, after_chunks=3, for_requests=1)
    assert (await told(gateway)).end == "stream_cut"
    left.behave(text=TEXT)
    assert (await told(gateway)).account.cache == "miss"
    asked = orjson.dumps({"model": "m", **SUBJECTS[Operation.CHAT]})
    reply = await gateway.answer(Operation.CHAT, asked, {}, "me", "req-2")
    assert isinstance(reply.body, bytes)
    assert orjson.loads(reply.body)["choices"][0]["message"]["content"] == TEXT
    assert reply.account is not None
    assert reply.account.cache == "hit"
