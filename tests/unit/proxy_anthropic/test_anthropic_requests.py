"""Requests between OpenAI's chat completions and Anthropic's messages."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.call import Call, Operation
from proxy.dialects.anthropic.from_chat import messages_request
from proxy.dialects.anthropic.to_chat import chat_request
from proxy.dialects.anthropic.translations import ChatAtAnthropic, MessagesAtAnthropic, MessagesAtOpenAI
from proxy.dialects.contract import NotTranslatableError

PIXEL = "data:image/png;base64,iVBORw0KGgo="
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}


def ask(messages: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": messages or [{"role": "user", "content": "hi"}], **fields}


def call(fields: dict[str, Any], operation: Operation = Operation.MESSAGES) -> Call:
    return Call(operation, orjson.dumps(fields), fields, "m", fields.get("stream") is True, "1", "k")


def test_a_whole_conversation_becomes_anthropics() -> None:
    """System messages move up, tool calls and all results of a turn become blocks, images keep their sources."""
    found = messages_request(
        ask(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is this?"},
                        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
                        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
                    ],
                },
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call.1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"town":"Ulm"}'},
                        },
                        {"id": "call:2", "type": "function", "function": {"name": "weather", "arguments": ""}},
                    ],
                },
                {"role": "tool", "tool_call_id": "call.1", "content": "sun"},
                {"role": "tool", "tool_call_id": "call:2", "content": ""},
                {"role": "user", "content": "So?"},
            ],
            tools=[WEATHER],
        ),
        "claude",
        4096,
    )
    assert found == {
        "model": "claude",
        "max_tokens": 4096,
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
                    {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"town": "Ulm"}},
                    {"type": "tool_use", "id": "call_2", "name": "weather", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "sun"}]},
                    {"type": "tool_result", "tool_use_id": "call_2"},
                    {"type": "text", "text": "So?"},
                ],
            },
        ],
        "tools": [
            {
                "name": "weather",
                "description": "Weather of a town.",
                "input_schema": {"type": "object", "properties": {"town": {"type": "string"}}},
            }
        ],
    }


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_completion_tokens": 9, "max_tokens": 7}, {"max_tokens": 9}),
        ({"temperature": 1.7}, {"temperature": 1.0}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 0.3, "top_p": 0.5}, {"temperature": 0.3}),
        ({"temperature": 1, "top_p": 1}, {}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", "", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"stop": None}, {}),
        ({"user": "u-1"}, {"metadata": {"user_id": "u-1"}}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
        ({"n": 1, "seed": 4, "presence_penalty": 0.5, "reasoning_effort": "high", "store": False}, {}),
        ({"logprobs": False, "modalities": ["text"], "logit_bias": {}}, {}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2048}},
            {"thinking": {"type": "enabled", "budget_tokens": 2048}},
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": SCHEMA},
                }
            },
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        ),
        ({"response_format": {"type": "text"}}, {}),
        ({"tool_choice": "required"}, {}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_each_field_is_said_in_anthropics_words_or_left_out(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """What Anthropic can say it is told; what only tunes an answer is left out."""
    found = messages_request(ask(**fields), "m", 4096)
    bare: dict[str, Any] = {
        "model": "m",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    }
    assert found == bare | expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, {"type": "tool", "name": "weather"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
        ({"parallel_tool_calls": False, "tool_choice": "required"}, {"type": "any", "disable_parallel_tool_use": True}),
        ({"parallel_tool_calls": True}, None),
    ],
    ids=["unsaid", "auto", "none", "required", "named", "one", "none-one", "required-one", "many"],
)
def test_tool_choice(choice: dict[str, Any], expected: dict[str, Any] | None) -> None:
    """Each way to choose a tool has Anthropic's word."""
    assert messages_request(ask(tools=[WEATHER], **choice), "m", 1).get("tool_choice") == expected


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    ],
    ids=["object", "lax schema"],
)
def test_json_without_a_strict_schema_is_asked_for_in_words(form: dict[str, Any]) -> None:
    """JSON mode and a schema that is not strict become an instruction that is kept apart from the caller's."""
    found = messages_request(
        ask([{"role": "system", "content": "S"}, *ask()["messages"]], response_format=form), "m", 1
    )
    assert "output_config" not in found
    assert next(block["text"] for block in found["system"]) == "S"
    said = found["system"][1]["text"]
    assert "JSON" in said
    assert ('"additionalProperties"' in said) == (form["type"] == "json_schema")


def test_calls_of_the_past_name_their_tools() -> None:
    """A conversation with tool calls, but without tools, declares those that were called and forbids their use."""
    past = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [*ask()["messages"], {"role": "assistant", "tool_calls": [past]}, {"role": "tool", "tool_call_id": "c"}]
    found = messages_request(ask(messages), "m", 1)
    assert [tool["name"] for tool in found["tools"]] == ["weather"]
    assert found["tool_choice"] == {"type": "none"}


def test_results_of_tools_are_not_thought_about() -> None:
    """Anthropic wants the thoughts of a turn that called tools back, signed, and they got lost on the way."""
    past = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [*ask()["messages"], {"role": "assistant", "tool_calls": [past]}, {"role": "tool", "tool_call_id": "c"}]
    asked = ask(messages, tools=[WEATHER], thinking={"type": "enabled", "budget_tokens": 1024})
    assert "thinking" not in messages_request(asked, "m", 4096)
    assert "thinking" in messages_request(asked | {"messages": messages[:1]}, "m", 4096)


def test_a_beginning_of_the_assistants_is_kept_without_white_space_at_its_end() -> None:
    """Anthropic refuses a last message that ends in white space, and one that says nothing."""
    begun = [*ask()["messages"], {"role": "assistant", "content": "Once upon \n"}]
    assert messages_request(ask(begun), "m", 1)["messages"][-1]["content"] == [{"type": "text", "text": "Once upon"}]
    begun[-1]["content"] = " \n"
    assert messages_request(ask(begun), "m", 1)["messages"][-1]["role"] == "user"


def test_a_system_message_alone_is_the_question() -> None:
    """Anthropic wants a user's message; OpenAI does not."""
    found = messages_request(ask([{"role": "system", "content": "Tell a joke."}]), "m", 1)
    assert found["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Tell a joke."}]}]
    assert "system" not in found


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"modalities": ["text", "audio"]}, "audio"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"stop": "\n\n"}, "stop"),
        ({"stop": 5}, "stop"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "tools[0]"),
        ({"tools": [WEATHER], "tool_choice": "weather"}, "tool_choice"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": []}, "messages"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "["}}]}
                ]
            },
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_would_change_the_answer_is_refused_with_its_place(fields: dict[str, Any], place: str) -> None:
    """A request that Anthropic cannot be asked is refused, and the text begins with where."""
    with pytest.raises(NotTranslatableError) as refused:
        messages_request(ask() | fields, "m", 1)
    assert str(refused.value).startswith(place + ":")


def test_a_messages_request_becomes_a_chat_completions() -> None:
    """System blocks, images, tools, results with images, thinking of the past and limits, in OpenAI's words."""
    found = chat_request(
        {
            "model": "x",
            "max_tokens": 50,
            "system": [
                {"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "B"},
            ],
            "stop_sequences": ["END"],
            "temperature": 0.5,
            "top_k": 3,
            "thinking": {"type": "adaptive"},
            "metadata": {"user_id": "u"},
            "stream": True,
            "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                        },
                        {"type": "text", "text": "look"},
                    ],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "text", "text": "calling"},
                        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "t1",
                            "content": [
                                {"type": "text", "text": "done"},
                                {"type": "image", "source": {"type": "url", "url": "https://example.org/b.png"}},
                            ],
                        }
                    ],
                },
            ],
        },
        "gpt-4.1",
        stream_usage=True,
    )
    assert found == {
        "model": "gpt-4.1",
        "max_tokens": 50,
        "stop": ["END"],
        "temperature": 0.5,
        "user": "u",
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "description": "d"}}
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "messages": [
            {"role": "system", "content": "A\n\nB"},
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": PIXEL}}, {"type": "text", "text": "look"}],
            },
            {
                "role": "assistant",
                "content": "calling",
                "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "done"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/b.png"}}]},
        ],
    }


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4.1", "max_tokens"),
        ("gpt-5-mini", "max_completion_tokens"),
        ("openai/o3", "max_completion_tokens"),
        ("qwen3", "max_tokens"),
    ],
    ids=str,
)
def test_reasoning_models_of_openai_have_another_word_for_the_limit(model: str, name: str) -> None:
    """They refuse `max_tokens`, which many other servers know alone."""
    assert chat_request(ask(max_tokens=5), model, stream_usage=False)[name] == 5


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
        ({"tools": [{"name": "f", "input_schema": {}}], "tool_choice": "auto"}, "tool_choice"),
        ({"messages": [{"role": "user", "content": [{"type": "container_upload"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"messages": [7]}, "messages.0"),
        ({"system": 7}, "system"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_only_anthropic_can_do_is_refused_with_its_place(fields: dict[str, Any], place: str) -> None:
    """A request that needs Anthropic's own servers is refused elsewhere, and the text begins with where."""
    with pytest.raises(NotTranslatableError) as refused:
        chat_request(ask() | fields, "m", stream_usage=False)
    assert str(refused.value).startswith(place + ":")


def test_at_its_own_dialect_a_request_goes_through_as_it_came() -> None:
    """Byte for byte, unless the model has another name there or the limit that Anthropic demands is missing."""
    asked = call(ask(max_tokens=5, thinking={"type": "adaptive"}, fresh_field=[1]))
    same = MessagesAtAnthropic()
    assert same.request(asked, "m", stream_usage=True, max_tokens=9) is asked.body
    renamed = orjson.loads(same.request(asked, "claude", stream_usage=True, max_tokens=9))
    assert renamed == asked.fields | {"model": "claude"}
    unlimited = orjson.loads(same.request(call(ask()), "m", stream_usage=True, max_tokens=9))
    assert unlimited == ask(max_tokens=9)


def test_how_a_cut_answer_is_continued_survives_the_translation() -> None:
    """The marks that some servers want on the assistant's beginning are passed on."""
    begun = ask([*ask()["messages"], {"role": "assistant", "content": "Once", "prefix": True}])
    assert chat_request(begun, "m", stream_usage=False)["messages"][-1]["prefix"] is True
    marked = begun | {"continue_final_message": True, "add_generation_prompt": False}
    found = chat_request(marked, "m", stream_usage=False)
    assert (found["continue_final_message"], found["add_generation_prompt"]) == (True, False)


WORDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(lambda text: text.strip())
ARGUMENTS = st.dictionaries(
    WORDS, st.one_of(st.integers(-9, 9), WORDS, st.booleans(), st.lists(WORDS, max_size=2)), max_size=3
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Alternating turns that begin with the user's; the assistant may call tools, whose results follow."""
    messages: list[dict[str, Any]] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(WORDS)})
    number = 0
    for _ in range(draw(st.integers(1, 4))):
        messages.append({"role": "user", "content": draw(WORDS)})
        calls = []
        for arguments in draw(st.lists(ARGUMENTS, max_size=2)):
            number += 1
            function = {"name": f"tool_{number % 3}", "arguments": orjson.dumps(arguments).decode()}
            calls.append({"id": f"call_{number}", "type": "function", "function": function})
        said: dict[str, Any] = {
            "role": "assistant",
            "content": draw(WORDS) if not calls or draw(st.booleans()) else None,
        }
        messages.append(said | ({"tool_calls": calls} if calls else {}))
        messages += [{"role": "tool", "tool_call_id": one["id"], "content": draw(WORDS)} for one in calls]
    messages.append({"role": "user", "content": draw(WORDS)})
    return messages


def flat(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What is said, call by call and part by part, whichever messages it stands in."""
    found: list[tuple[Any, ...]] = []
    for message in messages:
        content = message.get("content")
        parts = [{"text": content}] if isinstance(content, str) else content or []
        key = message["role"] if message["role"] != "tool" else ("tool", message["tool_call_id"])
        found += [(key, part["text"]) for part in parts]
        for one in message.get("tool_calls", ()):
            found.append(("call", one["id"], one["function"]["name"], orjson.loads(one["function"]["arguments"])))
    return found


@settings(deadline=None, max_examples=60)
@given(conversations())
def test_there_and_back_again_nothing_said_is_lost(messages: list[dict[str, Any]]) -> None:
    """Chat → messages → chat keeps every text, tool call and result, in order."""
    there = messages_request(ask(messages, tools=[WEATHER]), "m", 100)
    back = chat_request(there, "m", stream_usage=False)
    assert flat(back["messages"]) == flat(messages)
    assert back["tools"] == [WEATHER]
    roles = [message["role"] for message in there["messages"]]
    assert all(first != second for first, second in itertools.pairwise(roles))


KEYS = st.sampled_from(
    [
        "type",
        "text",
        "content",
        "role",
        "messages",
        "tools",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "id",
        "image_url",
        "url",
        "source",
        "system",
        "stop",
        "tool_choice",
        "response_format",
        "input",
        "tool_use_id",
        "tool_call_id",
        "user",
        "stream",
        "max_tokens",
        "temperature",
        "metadata",
    ]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5),
    st.sampled_from(
        [
            "text",
            "image",
            "tool_use",
            "tool_result",
            "user",
            "assistant",
            "tool",
            "system",
            "function",
            "json_schema",
            "thinking",
            "base64",
            "{}",
            "[1]",
            "auto",
            "any",
        ]
    ),
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=20,
)


@settings(deadline=None, max_examples=120)
@given(st.dictionaries(KEYS, ANYTHING, max_size=4), st.lists(ANYTHING, max_size=4))
def test_nonsense_is_refused_and_never_a_bug(fields: dict[str, Any], messages: list[Any]) -> None:
    """Whatever JSON a caller sends, a translation gives a body or NotTranslatableError."""
    asked = call({**fields, "model": "m", "messages": messages})
    for translation in (ChatAtAnthropic(), MessagesAtAnthropic(), MessagesAtOpenAI()):
        try:
            body = translation.request(asked, "n", stream_usage=True, max_tokens=5)
        except NotTranslatableError:
            continue
        assert orjson.loads(body)["model"] == "n"
