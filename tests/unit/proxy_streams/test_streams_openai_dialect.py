"""OpenAI's dialect between callers and providers who both speak it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.call import Call, Operation, Usage
from proxy.dialects.contract import Delta, Dialect, MalformedError, Meaning, NotTranslatableError, Sent, ToolDelta
from proxy.dialects.registry import spoken, translation
from proxy.dialects.sse import DONE, SseParser, data_of

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def call(operation: Operation = Operation.CHAT, **fields: Any) -> Call:
    subject = {Operation.CHAT: "messages", Operation.COMPLETIONS: "prompt", Operation.EMBEDDINGS: "input"}[operation]
    whole: dict[str, Any] = {"model": "m", subject: [], **fields}
    body = orjson.dumps(whole) + b" "
    return Call(operation, body, whole, "m", whole.get("stream") is True, "req-1", "me", created=7)


def openai(operation: Operation = Operation.CHAT) -> Any:
    return translation(operation, Dialect.OPENAI)


def request(of: Call, model: str = "m", *, stream_usage: bool = True) -> bytes:
    sent: bytes = openai(of.operation).request(of, model, stream_usage=stream_usage, max_tokens=1)
    return sent


def chunk(**choice: object) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"index": 0, **choice}]}) + b"\n\n"


@pytest.mark.parametrize(
    "fields",
    [{}, {"stream": True, "stream_options": {"include_usage": True}}, {"stream": False, "future": {"field": [1]}}],
    ids=["whole", "stream-with-usage", "unknown-field"],
)
def test_body_goes_through_as_it_came(fields: dict[str, Any]) -> None:
    """A request that needs no change keeps every byte."""
    given = call(**fields)
    assert request(given) is given.body


def test_body_gets_the_provider_s_name_of_the_model() -> None:
    """Only the name changes; everything else is said again."""
    sent = orjson.loads(request(call(future=1), "deployment"))
    assert sent == {"model": "deployment", "messages": [], "future": 1}


@pytest.mark.parametrize("given", [None, {}, {"include_usage": False, "include_obfuscation": False}])
def test_streams_are_asked_for_their_usage(given: dict[str, Any] | None) -> None:
    """A stream always tells its usage where the provider can, whatever the caller asked; other options stay."""
    fields = {"stream": True} if given is None else {"stream": True, "stream_options": given}
    asked = call(**fields)
    sent = orjson.loads(request(asked))
    assert sent["stream_options"] == {**(given or {}), "include_usage": True}
    assert asked.fields.get("stream_options") == given


def test_stream_options_are_kept_from_who_does_not_know_them() -> None:
    """A provider that does not understand `stream_options` is not sent any."""
    given = call(stream=True, stream_options={"include_usage": True})
    assert "stream_options" not in orjson.loads(request(given, stream_usage=False))


def test_embeddings_cannot_be_streamed() -> None:
    """A stream of embeddings is refused, and there is none at Anthropic at all."""
    with pytest.raises(NotTranslatableError):
        request(call(Operation.EMBEDDINGS, stream=True))
    assert translation(Operation.EMBEDDINGS, Dialect.ANTHROPIC) is None


def test_whole_answers_are_told_of() -> None:
    """Usage, model and finish are read, and the body stays as it came."""
    body = orjson.dumps(
        {
            "model": "m-1",
            "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}],
            "usage": USAGE | {"prompt_tokens_details": {"cached_tokens": 1}},
        }
    )
    whole = openai().whole(call(), body)
    assert (whole.body, whole.usage, whole.model, whole.finish) == (body, Usage(3, 2, 1), "m-1", "stop")
    assert whole.storable


@pytest.mark.parametrize(
    ("finish", "storable"), [("stop", True), ("length", True), ("content_filter", False), (None, False)]
)
def test_only_answers_that_came_to_their_end_may_be_kept(finish: str | None, storable: bool) -> None:
    """One choice that did not end by itself is enough to keep an answer out of the cache."""
    choices = [{"finish_reason": "stop"}, {"finish_reason": finish}]
    assert openai().whole(call(), orjson.dumps({"choices": choices})).storable is storable


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"choices": []}',
        b'{"choices": 3}',
        b'{"choices": [1]}',
        b'{"choices": [{"finish_reason": "abort"}]}',
        b'{"choices": [{"message": "x", "finish_reason": "stop"}]}',
        b'{"error": {"message": "no"}}',
    ],
)
def test_a_2xx_without_a_completion_is_malformed(body: bytes) -> None:
    """What is no completion is not passed on as one."""
    with pytest.raises(MalformedError):
        openai().whole(call(), body)


@pytest.mark.parametrize("body", [b"{}", b'{"data": []}', b'{"data": [1]}'])
def test_a_2xx_without_embeddings_is_malformed(body: bytes) -> None:
    """What holds no vector is not passed on as an answer."""
    with pytest.raises(MalformedError):
        openai(Operation.EMBEDDINGS).whole(call(Operation.EMBEDDINGS), body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "no", "odd": 1}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": "no"}', "no"),
        (b"<html>", "The provider answered 422."),
    ],
)
def test_refusals_get_the_envelope(body: bytes, message: str) -> None:
    """A 4xx in the envelope goes through as it came, any other is put into it."""
    told = openai().error(422, body)
    assert orjson.loads(told)["error"]["message"] == message
    assert (told is body) == (b"odd" in body)


@pytest.mark.parametrize(
    ("event", "delta"),
    [
        (chunk(delta={"role": "assistant", "content": ""}), Delta(Meaning.NOTHING)),
        (chunk(delta=None), Delta(Meaning.NOTHING)),
        (chunk(delta={"content": "x"}), Delta(Meaning.CONTENT, text="x")),
        (chunk(delta={"role": "assistant", "content": "x"}), Delta(Meaning.CONTENT, text="x")),
        (chunk(delta={"content": None, "reasoning_content": "r"}), Delta(Meaning.CONTENT, reasoning="r")),
        (chunk(delta={"reasoning": "r"}), Delta(Meaning.CONTENT, reasoning="r")),
        (
            chunk(delta={"tool_calls": [{"index": 1, "id": "t", "function": {"name": "f", "arguments": ""}}]}),
            Delta(Meaning.CONTENT, tools=(ToolDelta(1, "t", "f", ""),)),
        ),
        (chunk(delta={"content": "x"}, finish_reason="stop"), Delta(Meaning.CONTENT, text="x", finish="stop")),
        (chunk(delta={}, finish_reason="length"), Delta(Meaning.CONTENT, finish="length")),
        (
            chunk(delta={}, finish_reason="error"),
            Delta(Meaning.ERROR, error={"message": "the provider broke off in the middle"}),
        ),
        (chunk(delta={"content": "x", "annotations": [1]}), Delta(Meaning.CONTENT, text="x", told=False)),
        (chunk(delta={"content": "x", "refusal": None}), Delta(Meaning.CONTENT, text="x")),
        (chunk(delta={"content": "x"}, logprobs={"content": [1]}), Delta(Meaning.CONTENT, text="x", told=False)),
        (chunk(delta={"content": ["x"]}), Delta(Meaning.CONTENT, told=False)),
        (chunk(index=1, delta={"content": "x"}), Delta(Meaning.CONTENT, text="x", told=False)),
        (
            b'data: {"choices": [], "usage": {"prompt_tokens": 3}}\n\n',
            Delta(Meaning.NOTHING, usage=Usage(3), bare=True),
        ),
        (b'data: {"choices": [], "prompt_filter_results": []}\n\n', Delta(Meaning.NOTHING)),
        (b": keep-alive\n\n", Delta(Meaning.NOTHING)),
        (b'data: {"error": {"message": "no"}}\n\n', Delta(Meaning.ERROR, error={"message": "no"})),
        (b'data: {"error": "no"}\n\n', Delta(Meaning.ERROR, error={"message": "no"})),
        (b'data: {"choices": [{"del\n\n', Delta(Meaning.MALFORMED)),
        (b"data: [1]\n\n", Delta(Meaning.MALFORMED)),
        (b'data: {"choices": 3}\n\n', Delta(Meaning.MALFORMED)),
        (b'data: {"choices": [3]}\n\n', Delta(Meaning.MALFORMED)),
        (chunk(delta="x"), Delta(Meaning.MALFORMED)),
        (chunk(delta={"tool_calls": [3]}), Delta(Meaning.MALFORMED)),
        (chunk(delta={"tool_calls": {"a": 1}}), Delta(Meaning.MALFORMED)),
        (chunk(finish_reason=3), Delta(Meaning.MALFORMED)),
        (DONE, Delta(Meaning.DONE)),
        (b"data:[DONE] \n\n", Delta(Meaning.DONE)),
    ],
)
def test_chat_events_are_understood(event: bytes, delta: Delta) -> None:
    """Each kind of event has one meaning, and what its fields do not say is known to be missing."""
    assert openai().decoder(call()).read(event) == delta


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FUNCTION = st.fixed_dictionaries({}, optional={"index": JSON, "id": JSON, "function": JSON})
DELTA = st.fixed_dictionaries(
    {}, optional={"content": JSON, "role": JSON, "reasoning": JSON, "tool_calls": JSON | st.lists(FUNCTION, max_size=2)}
)
CHOICE = st.fixed_dictionaries(
    {}, optional={"index": JSON, "delta": JSON | DELTA, "text": JSON, "finish_reason": JSON, "logprobs": JSON}
)
CHUNK = st.fixed_dictionaries(
    {}, optional={"choices": JSON | st.lists(CHOICE, max_size=2), "usage": JSON, "model": JSON, "error": JSON}
)


@given(st.sampled_from([Operation.CHAT, Operation.COMPLETIONS]), st.lists(JSON | CHUNK, max_size=4))
def test_decoders_never_raise(operation: Operation, chunks: list[Any]) -> None:
    """Whatever JSON a provider sends has a meaning, and what is content can be added up and encoded."""
    decoder, encoder, sent = (
        openai(operation).decoder(call(operation)),
        openai(operation).encoder(call(operation)),
        Sent(),
    )
    for one in chunks:
        delta = decoder.read(b"data: " + orjson.dumps(one) + b"\n\n")
        if delta.meaning is Meaning.CONTENT:
            sent.add(delta)
            assert encoder.encode(delta).endswith(b"\n\n")
    assert isinstance(sent.text, str)
    assert sent.deltas <= len(chunks)


def test_several_choices_in_one_event() -> None:
    """An event of two choices is content when one of them is, and never taken for all of it."""
    event = b'data: {"choices": [{"index": 0, "delta": {}}, {"index": 1, "delta": {"content": "x"}}]}\n\n'
    assert openai().decoder(call(n=2)).read(event) == Delta(Meaning.CONTENT, told=False)


def test_a_stream_is_finished_when_every_choice_is() -> None:
    """With two choices the second finish counts; with two prompts of a text completion likewise."""
    decoder = openai().decoder(call(n=2))
    decoder.read(chunk(finish_reason="stop"))
    assert not decoder.finished
    decoder.read(b'data: {"choices": [{"index": 1, "finish_reason": "length"}]}\n\n')
    assert decoder.finished
    texts = openai(Operation.COMPLETIONS).decoder(call(Operation.COMPLETIONS, prompt=["a", "b"]))
    texts.read(b'data: {"choices": [{"index": 1, "text": "", "finish_reason": "stop"}]}\n\n')
    assert not texts.finished
    texts.read(b'data: {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}\n\n')
    assert texts.finished


@pytest.mark.parametrize(
    ("event", "delta"),
    [
        (b'data: {"choices": [{"text": "x"}]}\n\n', Delta(Meaning.CONTENT, text="x")),
        (b'data: {"choices": [{"text": ""}]}\n\n', Delta(Meaning.NOTHING)),
        (b'data: {"choices": [{"text": "x", "index": 1}]}\n\n', Delta(Meaning.CONTENT, text="x", told=False)),
        (b'data: {"choices": [{"text": 3}]}\n\n', Delta(Meaning.MALFORMED)),
        (b'data: {"error": "no"}\n\n', Delta(Meaning.ERROR, error={"message": "no"})),
        (b"data: {\n\n", Delta(Meaning.MALFORMED)),
        (DONE, Delta(Meaning.DONE)),
    ],
)
def test_text_completion_events_are_understood(event: bytes, delta: Delta) -> None:
    """The older API's events have the same meanings."""
    assert openai(Operation.COMPLETIONS).decoder(call(Operation.COMPLETIONS)).read(event) == delta


DELTAS = [
    Delta(Meaning.CONTENT, reasoning="hm", model="m-1"),
    Delta(Meaning.CONTENT, text="hi "),
    Delta(Meaning.NOTHING),
    Delta(Meaning.CONTENT, text="there", tools=(ToolDelta(0, "t", "f", '{"a"'),)),
    Delta(Meaning.CONTENT, tools=(ToolDelta(0, arguments=":1}"),)),
    Delta(Meaning.CONTENT, finish="tool_calls", usage=Usage(3, 2)),
]


def test_what_is_encoded_is_understood_again() -> None:
    """An answer told in chunks of our own has one identity, its usage at the end for who asked, and reads the same."""
    encoder, parser, sent = openai().encoder(call(stream_options={"include_usage": True})), SseParser(), Sent()
    events = parser.feed(b"".join(encoder.encode(delta) for delta in DELTAS) + encoder.end())
    decoder = openai().decoder(call())
    deltas = [decoder.read(event) for event in events]
    for delta in deltas:
        sent.add(delta)
    assert (sent.reasoning, sent.text, sent.finish) == ("hm", "hi there", "tool_calls")
    assert sent.tools == {0: ToolDelta(0, "t", "f", '{"a":1}')}
    assert [delta.meaning for delta in deltas][-1] is Meaning.DONE
    assert (deltas[-2].usage, deltas[-2].bare) == (Usage(3, 2), True)
    chunks = [orjson.loads(data_of(event) or b"") for event in events[:-1]]
    assert {(part["id"], part["created"], part["model"]) for part in chunks} == {("chatcmpl-req-1", 7, "m-1")}
    assert [part["choices"][0]["delta"].get("role") for part in chunks[:-1]] == ["assistant", None, None, None, None]


def test_usage_is_left_out_for_who_did_not_ask() -> None:
    """Without `include_usage` an encoded stream ends with [DONE] alone."""
    encoder = openai().encoder(call())
    encoder.encode(Delta(Meaning.CONTENT, finish="stop", usage=Usage(3, 2)))
    assert encoder.end() == DONE


def test_a_continued_answer_keeps_its_identity() -> None:
    """After forwarded events the encoder goes on with their id and time, under the new model's name, without a role."""
    encoder = openai().encoder(call())
    first = b'data: {"id":"c1","created":5,"model":"one","choices":[{"delta":{"role":"assistant","content":"a"}}]}\n\n'
    encoder.forwarded(first, openai().decoder(call()).read(first))
    told = orjson.loads(data_of(encoder.encode(Delta(Meaning.CONTENT, text="b", model="two"))) or b"")
    assert (told["id"], told["created"], told["model"]) == ("c1", 5, "two")
    assert told["choices"][0]["delta"] == {"content": "b"}


@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETIONS])
def test_assembled_is_the_answer_without_stream(operation: Operation) -> None:
    """A stream put together is a whole answer that its own dialect accepts, with text, finish and usage."""
    encoder, sent = openai(operation).encoder(call(operation)), Sent()
    for delta in (
        Delta(Meaning.CONTENT, text="hi "),
        Delta(Meaning.CONTENT, text="there", finish="stop", usage=Usage(3, 2)),
    ):
        encoder.encode(delta)
        sent.add(delta)
    body = encoder.assembled(sent)
    whole = openai(operation).whole(call(operation), body)
    assert (whole.finish, whole.usage, whole.storable) == ("stop", Usage(3, 2), True)
    choice = orjson.loads(body)["choices"][0]
    assert (choice["message"]["content"] if operation is Operation.CHAT else choice["text"]) == "hi there"


def test_what_cannot_be_told_is_not_assembled() -> None:
    """Without a finish, or with something that was not understood whole, there is nothing to keep."""
    encoder, unfinished, untold = openai().encoder(call()), Sent(), Sent()
    unfinished.add(Delta(Meaning.CONTENT, text="x"))
    untold.add(Delta(Meaning.CONTENT, text="x", finish="stop", told=False))
    assert encoder.assembled(unfinished) is None
    assert encoder.assembled(untold) is None


def test_what_was_sent_is_kept_within_its_limit() -> None:
    """Beyond the limit nothing more is kept, and that is known."""
    sent = Sent(limit_characters=4)
    sent.add(Delta(Meaning.CONTENT, text="abc"))
    assert sent.told
    sent.add(Delta(Meaning.CONTENT, text="def"))
    assert (sent.text, sent.told) == ("abc", False)


def test_a_whole_answer_replayed_says_the_same() -> None:
    """A whole answer told as a stream carries its content, tool calls, finish reason and usage, and ends in [DONE]."""
    tool = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "hi", "tool_calls": [tool]}
    answer = {
        "id": "c1",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": USAGE,
    }
    asked = call(stream=True, stream_options={"include_usage": True})
    events = SseParser().feed(spoken(Operation.CHAT).replayed(asked, orjson.dumps(answer)) or b"")
    decoder, sent = openai().decoder(asked), Sent()
    deltas = [decoder.read(event) for event in events]
    for delta in deltas:
        sent.add(delta)
    assert (sent.text, sent.finish, sent.tools) == ("hi", "tool_calls", {0: ToolDelta(0, "t", "f", "{}")})
    assert (deltas[-2].usage, deltas[-1].meaning, decoder.finished) == (Usage(3, 2), Meaning.DONE, True)


@pytest.mark.parametrize(
    "message", ["x", 5, [], {"content": 5, "tool_calls": "x"}, {"tool_calls": [1, None, {"function": 7}]}], ids=repr
)
def test_an_odd_message_has_a_stream_too(message: object) -> None:
    """Whatever stands where a message should, a stream that was asked for comes to its end."""
    body = orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})
    told = spoken(Operation.CHAT).replayed(call(stream=True), body) or b""
    assert told.endswith(b"data: [DONE]\n\n")


def test_a_text_completion_replayed_says_the_same() -> None:
    """The older API's answers can be told as a stream too; embeddings have none."""
    asked = call(Operation.COMPLETIONS, stream=True, stream_options={"include_usage": True})
    body = orjson.dumps({"choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}], "usage": USAGE})
    decoder = openai(Operation.COMPLETIONS).decoder(asked)
    deltas = [
        decoder.read(event) for event in SseParser().feed(spoken(Operation.COMPLETIONS).replayed(asked, body) or b"")
    ]
    assert [(delta.text, delta.finish, delta.usage, delta.meaning) for delta in deltas] == [
        ("hi", "stop", None, Meaning.CONTENT),
        ("", None, Usage(3, 2), Meaning.NOTHING),
        ("", None, None, Meaning.DONE),
    ]
    embedding = call(Operation.EMBEDDINGS, stream=True)
    assert spoken(Operation.EMBEDDINGS).replayed(embedding, b'{"data": [{}]}') is None


def test_the_error_frame_is_the_envelope() -> None:
    """A broken stream ends in OpenAI's error object."""
    error = orjson.loads(data_of(openai().encoder(call()).error("gone", "stream_cut")) or b"")["error"]
    assert error == {"message": "gone", "type": "upstream_error", "param": None, "code": "stream_cut"}
