"""Whole answers and errors between Anthropic's dialect and OpenAI's."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.call import Call, Operation, Usage
from proxy.dialects.anthropic import errors
from proxy.dialects.anthropic.translations import ChatAtAnthropic, MessagesAtAnthropic, MessagesAtOpenAI
from proxy.dialects.contract import MalformedError

CHAT = Call(Operation.CHAT, b"{}", {}, "asked", False, "7", "k", created=1_700_000_000)
MESSAGES = Call(Operation.MESSAGES, b"{}", {}, "asked", False, "7", "k")
COUNTED = {"input_tokens": 10, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 5, "output_tokens": 8}


def message(content: list[dict[str, Any]], stop_reason: str = "end_turn", **more: Any) -> bytes:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x"}
    return orjson.dumps(head | {"content": content, "stop_reason": stop_reason, "usage": COUNTED} | more)


def completion(said: dict[str, Any], finish: str = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant"} | said, "finish_reason": finish}
    usage = {"prompt_tokens": 45, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 30}}
    return orjson.dumps({"id": "chatcmpl-1", "model": "gpt-x", "choices": [choice], "usage": usage} | more)


def test_a_message_becomes_a_chat_completion() -> None:
    """Text, thinking, tool calls, model and usage; input counts what caches had to do with too."""
    body = message(
        [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "Let me "},
            {"type": "text", "text": "see."},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": [1]}},
        ],
        "tool_use",
    )
    whole = ChatAtAnthropic().whole(CHAT, body)
    assert orjson.loads(whole.body) == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "claude-x",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Let me see.",
                    "refusal": None,
                    "reasoning_content": "hm",
                    "tool_calls": [
                        {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":[1]}'}}
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 45,
            "completion_tokens": 8,
            "total_tokens": 53,
            "prompt_tokens_details": {"cached_tokens": 30},
        },
    }
    assert (whole.usage, whole.model, whole.finish, whole.storable) == (
        Usage(45, 8, 30, 5),
        "claude-x",
        "tool_calls",
        True,
    )


@pytest.mark.parametrize(
    ("stop_reason", "finish", "storable"),
    [
        ("end_turn", "stop", True),
        ("stop_sequence", "stop", True),
        ("max_tokens", "length", True),
        ("model_context_window_exceeded", "length", True),
        ("tool_use", "tool_calls", True),
        ("refusal", "content_filter", False),
        ("a_new_one", "stop", True),
    ],
)
def test_why_it_ended(stop_reason: str, finish: str, storable: bool) -> None:
    """Each stop reason has OpenAI's word; a refusal is not kept."""
    whole = ChatAtAnthropic().whole(CHAT, message([{"type": "text", "text": "x"}], stop_reason))
    assert (whole.finish, whole.storable) == (finish, storable)


def test_a_message_for_its_own_callers_goes_through_as_it_came() -> None:
    """Byte for byte; only what the books need is read."""
    body = message([{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}], "pause_turn")
    whole = MessagesAtAnthropic().whole(MESSAGES, body)
    assert whole.body is body
    assert (whole.usage, whole.model, whole.storable) == (Usage(45, 8, 30, 5), "claude-x", False)


def test_a_chat_completion_becomes_a_message() -> None:
    """Text, tool calls, usage; reasoning is left out, for it has no signature."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    body = completion({"content": "Hm.", "reasoning_content": "thought", "tool_calls": [call]}, "tool_calls")
    whole = MessagesAtOpenAI().whole(MESSAGES, body)
    assert orjson.loads(whole.body) == {
        "id": "chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "model": "gpt-x",
        "content": [
            {"type": "text", "text": "Hm."},
            {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 15,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 30,
            "output_tokens": 8,
        },
    }
    assert (whole.finish, whole.storable, whole.model) == ("tool_calls", True, "gpt-x")


def test_a_refusal_of_openais_is_anthropics() -> None:
    """Its text is kept, its stop reason says what it is."""
    whole = MessagesAtOpenAI().whole(MESSAGES, completion({"content": None, "refusal": "I cannot."}))
    found = orjson.loads(whole.body)
    assert (found["stop_reason"], found["content"]) == ("refusal", [{"type": "text", "text": "I cannot."}])
    assert whole.finish == "content_filter"


def test_arguments_that_are_no_object_are_the_providers_fault_unless_cut_by_the_limit() -> None:
    """A call that the limit cut short is left out, as it cannot be made; any other one is malformed."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": '}}
    said = {"content": "x", "tool_calls": [call]}
    cut = orjson.loads(MessagesAtOpenAI().whole(MESSAGES, completion(said, "length")).body)
    assert [block["type"] for block in cut["content"]] == ["text"]
    with pytest.raises(MalformedError):
        MessagesAtOpenAI().whole(MESSAGES, completion(said, "tool_calls"))


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-2, 5), st.sampled_from(["text", "tool_use", "message", "end_turn"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["type", "text", "content", "stop_reason", "usage", "choices", "message", "tool_calls", "function"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=15,
)


@settings(deadline=None, max_examples=80)
@given(ANYTHING, ANYTHING)
def test_nonsense_from_a_provider_is_malformed_and_never_a_bug(anything: Any, content: Any) -> None:
    """Whatever a 2xx brings, `whole` gives an answer or MalformedError, and `error` an envelope."""
    shapes = (
        anything,
        {"type": "message", "content": [anything, content], "stop_reason": "end_turn"},
        {"choices": [{"message": anything, "finish_reason": content}]},
    )
    for body in map(orjson.dumps, shapes):
        for translation, call in (
            (ChatAtAnthropic(), CHAT),
            (MessagesAtAnthropic(), MESSAGES),
            (MessagesAtOpenAI(), MESSAGES),
        ):
            try:
                whole = orjson.loads(translation.whole(call, body).body)
            except MalformedError:
                whole = None
            assert whole is None or isinstance(whole, dict)
            assert "error" in orjson.loads(translation.error(400, body))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (418, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_an_error_of_ours_has_anthropics_type_for_its_status(status: int, kind: str) -> None:
    """Clients choose their exception by status and type."""
    assert orjson.loads(errors.error_body(status, "why", "req-1")) == {
        "type": "error",
        "error": {"type": kind, "message": "why"},
        "request_id": "req-1",
    }


def test_a_refusal_is_told_in_the_callers_dialect() -> None:
    """OpenAI's to Anthropic's callers, Anthropic's to OpenAI's, and a caller's own as it came."""
    theirs = orjson.dumps({"type": "error", "error": {"type": "invalid_request_error", "message": "no such thing"}})
    ours = orjson.dumps({"error": {"message": "bad", "type": "invalid_request_error", "param": "x", "code": None}})
    assert orjson.loads(ChatAtAnthropic().error(400, theirs)) == {
        "error": {"message": "no such thing", "type": "invalid_request_error", "param": None, "code": None}
    }
    assert orjson.loads(MessagesAtOpenAI().error(404, ours)) == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "bad"},
    }
    assert MessagesAtAnthropic().error(400, theirs) is theirs
    assert orjson.loads(MessagesAtAnthropic().error(400, b"<html>")) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "The provider answered 400."},
    }


def test_a_prompt_that_is_too_long_has_openais_code() -> None:
    """By which callers, and we ourselves, know to take a larger model."""
    said = {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"}
    told = orjson.loads(errors.to_openai(400, orjson.dumps({"type": "error", "error": said})))
    assert told["error"]["code"] == "context_length_exceeded"
