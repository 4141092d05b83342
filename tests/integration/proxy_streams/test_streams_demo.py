"""The demo upstream: what it says, and each way in which it can misbehave."""

from __future__ import annotations

import base64
import struct
from typing import Any

import httpx
import orjson
import pytest

from proxy.demo.behaviour import Behaviour, parse_behaviour

CHAT = {"model": "demo-small", "messages": [{"role": "user", "content": "one two"}]}
MESSAGES = {**CHAT, "max_tokens": 100}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


def ask(demo: Any, path: str = "/v1/chat/completions", **fields: Any) -> Any:
    base = MESSAGES if path == "/v1/messages" else CHAT
    return demo.client.post(path, json={**base, **fields})


def stream(demo: Any, path: str = "/v1/chat/completions", **fields: Any) -> list[Any]:
    """The data of each event."""
    answer = ask(demo, path, stream=True, **fields)
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [one if one == "[DONE]" else orjson.loads(one) for one in data]


def text_of(events: list[Any]) -> str:
    chunks = [event for event in events if isinstance(event, dict)]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk.get("choices"))


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def test_two_upstreams_can_say_the_same(demo: Any) -> None:
    """With `same_text` the name is left out, with `text` each answer is that, in chunks of any size."""
    demo.behave(same_text=True)
    assert text_of(stream(demo)).strip() == "I heard: one two"
    demo.behave(text="word  for\nword ", chunk_characters=4)
    chunks = [event["choices"][0]["delta"].get("content") for event in stream(demo)[:-1]]
    assert chunks == ["", "word", "  fo", "r\nwo", "rd ", None]
    assert ask(demo).json()["choices"][0]["message"]["content"] == "word  for\nword "


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_prefill_is_continued_truthfully(demo: Any, path: str) -> None:
    """What the assistant's last message ends with already is not said again, after the caller's own words too."""
    demo.behave(text="one two three four")
    for begun in ("one two", "Sure: one two"):
        messages = [*CHAT["messages"], {"role": "assistant", "content": begun}]
        answer = ask(demo, path, messages=messages).json()
        said = answer["content"][0]["text"] if path == "/v1/messages" else answer["choices"][0]["message"]["content"]
        assert said == " three four"


def test_a_text_completion_goes_on(demo: Any) -> None:
    """The older API completes its prompt, and a fixed text from where the prompt has come to."""
    answer = demo.client.post("/v1/completions", json={"model": "m", "prompt": "hi"}).json()
    assert answer["choices"][0]["text"] == "demo heard: hi"
    demo.behave(text="one two")
    answer = demo.client.post("/v1/completions", json={"model": "m", "prompt": "say: one"}).json()
    assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", " two")


def test_embeddings_are_unit_vectors_of_their_text(demo: Any) -> None:
    """The same text has the same vector, as numbers or in base64, of any size."""
    asked = {"model": "m", "input": ["a", "b", "a"], "dimensions": 4}
    numbers = demo.client.post("/v1/embeddings", json=asked).json()
    first, second, third = (one["embedding"] for one in numbers["data"])
    assert first == third != second
    assert sum(number * number for number in first) == pytest.approx(1)
    packed = demo.client.post("/v1/embeddings", json={**asked, "encoding_format": "base64"}).json()
    assert struct.unpack("<4f", base64.b64decode(packed["data"][0]["embedding"])) == pytest.approx(first)
    assert demo.client.post("/v1/embeddings", json={"model": "m", "input": []}).status_code == 400


def test_tools_are_called_when_the_prompt_says_so(demo: Any) -> None:
    """A prompt that names a tool, or a choice that demands one, gets a call that fits its schema; a result a text."""
    asked: dict[str, Any] = {"tools": [TOOL], "messages": user("weather in 3 days")}
    message = ask(demo, **asked).json()["choices"][0]["message"]
    arguments = orjson.loads(message["tool_calls"][0]["function"]["arguments"])
    assert arguments == {"city": "weather in 3 days", "days": 3}
    parts = [
        part for event in stream(demo, **asked)[:-1] for part in event["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert orjson.loads("".join(part["function"]["arguments"] for part in parts)) == arguments
    assert [part["id"] for part in parts if "id" in part] == [message["tool_calls"][0]["id"]]
    result = {"role": "tool", "tool_call_id": "x", "content": "rain"}
    done = ask(demo, tools=[TOOL], messages=[*user("weather"), message, result]).json()["choices"][0]
    assert (done["finish_reason"], done["message"]["content"]) == ("stop", "demo heard: rain")
    assert ask(demo, tools=[TOOL]).json()["choices"][0]["finish_reason"] == "stop"
    assert ask(demo, tools=[TOOL], tool_choice="required").json()["choices"][0]["finish_reason"] == "tool_calls"
    assert ask(demo, **asked, tool_choice="none").json()["choices"][0]["finish_reason"] == "stop"


def test_json_mode_gives_an_object(demo: Any) -> None:
    """JSON mode answers with an object, a schema with one that fits it."""
    plain = ask(demo, response_format={"type": "json_object"}).json()["choices"][0]["message"]["content"]
    assert orjson.loads(plain) == {"heard": "one two"}
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    fitting = ask(demo, response_format=form).json()["choices"][0]["message"]["content"]
    assert orjson.loads(fitting) == {"ok": True, "kind": "a"}


def test_messages_speak_anthropic(demo: Any) -> None:
    """A whole message and a streamed one say the same, in Anthropic's events."""
    demo.behave(reasoning="let me think")
    asked = {
        "tools": [{"name": "weather", "input_schema": TOOL["function"]["parameters"]}],  # type: ignore[index]
        "messages": user("weather"),
    }
    whole = ask(demo, "/v1/messages", **asked).json()
    assert [block["type"] for block in whole["content"]] == ["thinking", "tool_use"]
    assert (whole["stop_reason"], whole["content"][1]["input"]["days"]) == ("tool_use", 1)
    events = stream(demo, "/v1/messages", **asked)
    assert [event["type"] for event in events if "delta" not in event["type"]] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_stop",
        "content_block_start",
        "content_block_stop",
        "message_stop",
    ]
    pieces = [event["delta"].get("partial_json", "") for event in events if event["type"] == "content_block_delta"]
    assert orjson.loads("".join(pieces)) == whole["content"][1]["input"]
    assert ask(demo, "/v1/messages", max_tokens=None).json()["error"]["type"] == "invalid_request_error"


def test_a_budget_is_kept(demo: Any) -> None:
    """`max_tokens` ends the answer with its own finish."""
    choice = ask(demo, max_tokens=2).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("demo heard:", "length")


def test_n_choices(demo: Any) -> None:
    """`n` asks for as many choices, whole and streamed."""
    assert [choice["index"] for choice in ask(demo, n=2).json()["choices"]] == [0, 1]
    finishes = [event["choices"][0] for event in stream(demo, n=2)[:-1] if event["choices"][0]["finish_reason"]]
    assert [choice["index"] for choice in finishes] == [0, 1]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/embeddings"])
def test_a_reset_comes_before_any_answer(demo: Any, path: str) -> None:
    """The connection is reset, not closed, and no header was sent."""
    demo.behave("reset")
    with pytest.raises(httpx.ReadError):
        demo.client.post(path, json={**MESSAGES, "input": "x"})


def test_each_key_has_its_own_fault(demo: Any) -> None:
    """Keys are told apart, however they are sent, and counted."""
    demo.behave(keys={"sk-a": "401", "sk-b": "429"}, retry_after=3)
    bearer = demo.client.post("/v1/chat/completions", json=CHAT, headers={"authorization": "Bearer sk-a"})
    azure = demo.client.post("/v1/chat/completions", json=CHAT, headers={"api-key": "sk-b"})
    anthropic = demo.client.post("/v1/messages", json=MESSAGES, headers={"x-api-key": "sk-b"})
    assert (bearer.status_code, azure.status_code, ask(demo).status_code) == (401, 429, 200)
    assert (anthropic.json()["error"]["type"], anthropic.headers["retry-after"]) == ("rate_limit_error", "3")
    seen = demo.seen()["by_key"]
    assert (seen["sk-a"], seen["sk-b"]) == (1, 2)


def test_too_long_a_request_is_refused(demo: Any) -> None:
    """`context` refuses what has more words, or only some models, as each API would."""
    demo.behave("context", context_words=20, context_models=["demo-small"])
    assert ask(demo).status_code == 200
    long = user("word " * 30)
    refused = ask(demo, messages=long)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert ask(demo, messages=long, model="demo-large").status_code == 200
    assert "prompt is too long" in ask(demo, "/v1/messages", messages=long).json()["error"]["message"]


def test_the_content_filter(demo: Any) -> None:
    """`filter` refuses with 400, `filter_finish` ends a 200 with the filter's finish."""
    demo.behave("filter")
    assert (ask(demo).status_code, ask(demo).json()["error"]["code"]) == (400, "content_filter")
    demo.behave("filter_finish", after_chunks=1)
    assert ask(demo).json()["choices"][0]["finish_reason"] == "content_filter"
    assert ask(demo, "/v1/messages").json()["stop_reason"] == "refusal"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_prefill_can_be_refused(demo: Any, path: str) -> None:
    """`refuse_prefill` refuses only what ends with the assistant's own words."""
    demo.behave("refuse_prefill")
    assert ask(demo, path).status_code == 200
    assert ask(demo, path, messages=[*CHAT["messages"], {"role": "assistant", "content": "x"}]).status_code == 400


def test_an_error_frame_ends_a_stream(demo: Any) -> None:
    """`error_frame` speaks each API's error in the middle of a stream."""
    demo.behave("error_frame", after_chunks=1)
    assert stream(demo)[-1]["error"]["code"] == "overloaded"
    assert stream(demo, "/v1/messages")[-1]["error"]["type"] == "overloaded_error"


def test_a_late_first_token(demo: Any) -> None:
    """`late` sends the head at once and the first content after its delay; a whole answer waits as long."""
    demo.behave("late", delay_seconds=0.3)
    with demo.client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
        first = next(answer.iter_raw())
        assert b'"role"' in first
        assert b"demo" not in first.split(b'"delta"')[1]
    assert ask(demo).elapsed.total_seconds() >= 0.3


@pytest.mark.parametrize("ends", ["crlf", "cr", "mixed"])
def test_line_ends(demo: Any, ends: str) -> None:
    """Streams can come with every line end that the standard knows."""
    demo.behave(line_ends=ends)
    raw = ask(demo, stream=True).content
    assert b"\r" in raw
    assert (b"\n" in raw.replace(b"\r\n", b"")) is (ends == "mixed")
    assert text_of(stream(demo)).strip() == "demo heard: one two"


def test_the_last_request_can_be_seen(demo: Any) -> None:
    """What reached the upstream is shown as it came."""
    ask(demo, future=1)
    last = demo.client.get("/_demo/last").json()
    assert (last["path"], orjson.loads(last["body"])["future"]) == ("/v1/chat/completions", 1)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"mode": "ok", "keys": {"a": "sad"}}', "keys: expected an object of modes"),
        (b'{"mode": "ok", "context_models": "a"}', "context_models: expected an array"),
        (b'{"mode": "ok", "line_ends": "no"}', "line_ends: expected one of lf"),
        (b'{"mode": "ok", "text": 1}', "text: expected a text"),
    ],
)
def test_bad_behaviours_are_named(body: bytes, says: str) -> None:
    """A wrong value of the newer keys is named with what is allowed."""
    with pytest.raises(ValueError, match=says):
        parse_behaviour(body)
    assert parse_behaviour(b'{"mode": "ok", "context_models": ["a"]}') == Behaviour(context_models=("a",))
