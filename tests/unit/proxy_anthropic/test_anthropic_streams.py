"""Streams between Anthropic's dialect and OpenAI's."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.call import Call, Operation, Usage
from proxy.dialects.anthropic.decoder import MessagesDecoder
from proxy.dialects.anthropic.encoder import MessagesEncoder, event, events_of
from proxy.dialects.anthropic.translations import ChatAtAnthropic, MessagesAtAnthropic, MessagesAtOpenAI
from proxy.dialects.contract import Delta, Meaning, Sent, ToolDelta
from proxy.dialects.sse import SseParser, data_of

CALL = Call(Operation.MESSAGES, b"{}", {}, "asked", True, "7", "k")
CHAT_FIELDS = {"stream_options": {"include_usage": True}}
CHAT = Call(Operation.CHAT, b"{}", CHAT_FIELDS, "asked", True, "7", "k", created=1_700_000_000)

BEGIN = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 10, "cache_read_input_tokens": 30, "output_tokens": 1},
    },
}


def start(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, **said: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": said}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def concluded(reason: str) -> dict[str, Any]:
    said = {"stop_reason": reason, "stop_sequence": None}
    return {"type": "message_delta", "delta": said, "usage": {"output_tokens": 8}}


END = {"type": "message_stop"}
STREAM = [
    BEGIN,
    {"type": "ping"},
    start(0, type="thinking", thinking="", signature=""),
    delta(0, type="thinking_delta", thinking="hm"),
    delta(0, type="signature_delta", signature="s"),
    stop(0),
    start(1, type="text", text=""),
    delta(1, type="text_delta", text="Let me "),
    delta(1, type="text_delta", text="see."),
    stop(1),
    start(2, type="tool_use", id="t1", name="f", input={}),
    delta(2, type="input_json_delta", partial_json=""),
    delta(2, type="input_json_delta", partial_json='{"a":'),
    delta(2, type="input_json_delta", partial_json="1}"),
    stop(2),
    start(3, type="tool_use", id="t2", name="g", input={}),
    stop(3),
    concluded("tool_use"),
    END,
]


def read_back(raw: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Blocks and the last `message_delta` of a stream, having checked the order that Anthropic documents."""
    said = [orjson.loads(data_of(one) or b"{}") for one in SseParser().feed(raw)]
    kinds = [one["type"] for one in said if one["type"] != "ping"]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("message_start") == kinds.count("message_stop") == 1
    blocks: list[dict[str, Any]] = []
    is_open = False
    for one in said:
        match one["type"]:
            case "content_block_start":
                assert not is_open
                assert one["index"] == len(blocks)
                blocks.append(dict(one["content_block"]))
                is_open = True
            case "content_block_delta":
                assert is_open
                assert one["index"] == len(blocks) - 1
                block, part = blocks[-1], one["delta"]
                if part["type"] == "text_delta":
                    block["text"] += part["text"]
                elif part["type"] == "thinking_delta":
                    block["thinking"] += part["thinking"]
                elif part["type"] == "signature_delta":
                    block["signature"] += part["signature"]
                else:
                    block["json"] = block.get("json", "") + part["partial_json"]
            case "content_block_stop":
                assert is_open
                assert one["index"] == len(blocks) - 1
                is_open = False
    assert not is_open
    for block in blocks:
        if "json" in block:
            block["input"] = orjson.loads(block.pop("json"))
    return blocks, said[-2]


def test_anthropics_events_become_openais_chunks() -> None:
    """Thinking, text, tool calls with their numbers, finish, and the usage that was asked for, then [DONE]."""
    translation = ChatAtAnthropic()
    decoder, encoder = translation.decoder(CHAT), translation.encoder(CHAT)
    raw = b"".join(encoder.encode(decoder.read(event(one))) for one in STREAM[:-1])
    assert decoder.finished
    assert decoder.read(event(END)).meaning is Meaning.DONE
    events = SseParser().feed(raw + encoder.end())
    assert events[-1] == b"data: [DONE]\n\n"
    chunks = [orjson.loads(data_of(one) or b"") for one in events[:-1]]
    assert {(chunk["model"], chunk["created"]) for chunk in chunks} == {("claude-x", 1_700_000_000)}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert "".join(one.get("reasoning_content", "") for one in deltas) == "hm"
    assert "".join(one.get("content") or "" for one in deltas) == "Let me see."
    calls: dict[int, list[Any]] = {}
    for part in (part for one in deltas for part in one.get("tool_calls", ())):
        call = calls.setdefault(part["index"], [part.get("id"), part["function"].get("name"), ""])
        call[2] += part["function"]["arguments"]
    assert calls == {0: ["t1", "f", '{"a":1}'], 1: ["t2", "g", "{}"]}
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["prompt_tokens"]) == ([], 40)
    assert chunks[-1]["usage"]["completion_tokens"] == 8


@settings(deadline=None, max_examples=60)
@given(st.sets(st.integers(1, 3000)))
def test_however_its_bytes_are_split_a_stream_means_the_same(cuts: set[int]) -> None:
    """Events are whole before they are read."""
    raw = b"".join(map(event, STREAM))
    places = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    parser, decoder = SseParser(), MessagesDecoder(native=False)
    pieces = [raw[begin:end] for begin, end in itertools.pairwise(places)]
    found = [decoder.read(one) for piece in pieces for one in parser.feed(piece)]
    whole = MessagesDecoder(native=False)
    assert found == [whole.read(event(one)) for one in STREAM]


def test_usage_adds_up_over_the_stream() -> None:
    """Input is told at the begin, output at the end; both are known then."""
    decoder = MessagesDecoder(native=False)
    told = [found.usage for one in STREAM if (found := decoder.read(event(one))).usage is not None]
    assert told == [Usage(40, 1, 30), Usage(40, 8, 30)]


@pytest.mark.parametrize(
    ("raw", "meaning"),
    [
        (b": keep-alive\n\n", Meaning.NOTHING),
        (event({"type": "ping"}), Meaning.NOTHING),
        (event({"type": "a_new_one", "x": 1}), Meaning.NOTHING),
        (event(start(0, type="text", text="")), Meaning.NOTHING),
        (event(delta(0, type="signature_delta", signature="s")), Meaning.NOTHING),
        (event({"type": "message_delta", "delta": {"stop_reason": None}}), Meaning.NOTHING),
        (event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}), Meaning.ERROR),
        (b"data: [DONE]\n\n", Meaning.DONE),
        (b'data: {"type": "content_bl\n\n', Meaning.MALFORMED),
        (b"data: 7\n\n", Meaning.MALFORMED),
        (event({"type": "content_block_delta", "index": 0}), Meaning.MALFORMED),
        (event({"type": "content_block_start", "index": "0"}), Meaning.MALFORMED),
        (event({"type": "message_start"}), Meaning.MALFORMED),
    ],
    ids=lambda value: value.name if isinstance(value, Meaning) else "",
)
def test_what_each_event_means(raw: bytes, meaning: Meaning) -> None:
    """Pings and what is new to us mean nothing; errors and nonsense are told apart."""
    assert MessagesDecoder(native=False).read(raw).meaning is meaning


def test_what_a_delta_cannot_tell_is_marked_for_those_who_get_the_events_themselves() -> None:
    """Thinking with its signature, citations and the work of Anthropic's own tools can go through, but be neither
    continued nor assembled; a caller of OpenAI's never sees them."""
    beyond = [
        delta(0, type="thinking_delta", thinking="hm"),
        delta(0, type="signature_delta", signature="s"),
        delta(0, type="citations_delta", citation={}),
        start(1, type="server_tool_use", id="s", name="web_search", input={}),
        concluded("stop_sequence"),
    ]
    assert [MessagesDecoder(native=True).read(event(one)).told for one in beyond] == [False] * 5
    assert [MessagesDecoder(native=False).read(event(one)).told for one in beyond] == [True] * 5
    decoder = MessagesDecoder(native=True)
    told = [decoder.read(event(one)).told for one in STREAM]
    assert [place for place, is_told in enumerate(told) if not is_told] == [3, 4]


def test_openais_chunks_become_anthropics_events() -> None:
    """Blocks one after another, their indexes, the stop reason, and the usage that came last."""
    translation = MessagesAtOpenAI()
    decoder, encoder = translation.decoder(CALL), translation.encoder(CALL)

    def chunk(said: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": said, "finish_reason": finish}
        return b"data: " + orjson.dumps({"id": "c", "model": "gpt-x", "choices": [choice]}) + b"\n\n"

    usage = {"prompt_tokens": 40, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 30}}
    events = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "Let me "}),
        chunk({"content": "see."}),
        chunk(
            {"tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": ""}}]}
        ),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "t2", "function": {"name": "g", "arguments": "{}"}}]}),
        chunk({}, "tool_calls"),
        b"data: " + orjson.dumps({"model": "gpt-x", "choices": [], "usage": usage}) + b"\n\n",
    ]
    raw = b"".join(encoder.encode(decoder.read(one)) for one in events)
    blocks, end = read_back(raw + encoder.end())
    assert blocks == [
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
    ]
    assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert end["usage"]["input_tokens"] + end["usage"]["cache_read_input_tokens"] == 40
    assert end["usage"]["output_tokens"] == 8
    begun = orjson.loads(data_of(SseParser().feed(raw)[0]) or b"")["message"]
    assert (begun["id"], begun["model"], begun["content"]) == ("msg_7", "gpt-x", [])
    assert encoder.end() == b""


def test_reasoning_of_others_is_a_ping() -> None:
    """The caller sees that the model lives, and what is kept for a continuation is what the caller was sent."""
    decoder, encoder = MessagesAtOpenAI().decoder(CALL), MessagesEncoder(CALL)
    first, second = (
        decoder.read(b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}\n\n') for _ in range(2)
    )
    assert (first.meaning, first.reasoning) == (Meaning.CONTENT, "")
    assert b"message_start" in encoder.encode(first)
    assert encoder.encode(second) == event({"type": "ping"})


PARTS = st.one_of(
    st.text(min_size=1, max_size=5).map(lambda text: Delta(Meaning.CONTENT, text=text)),
    st.tuples(st.integers(0, 2), st.text(max_size=4)).map(
        lambda part: Delta(Meaning.CONTENT, tools=(ToolDelta(part[0], arguments=part[1]),))
    ),
)


@settings(deadline=None, max_examples=80)
@given(st.lists(PARTS, max_size=12), st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
def test_whatever_is_said_by_turns_comes_out_in_blocks_and_nothing_is_lost(parts: list[Delta], finish: str) -> None:
    """Deltas → Anthropic's events → deltas: the same text, the same calls with the same arguments, the same finish."""
    seen: set[int] = set()
    deltas: list[Delta] = []
    for part in parts:
        tools = tuple(
            ToolDelta(tool.index, f"t{tool.index}", f"f{tool.index}", tool.arguments)
            if tool.index not in seen
            else tool
            for tool in part.tools
        )
        seen |= {tool.index for tool in tools}
        deltas.append(Delta(Meaning.CONTENT, text=part.text, tools=tools))
    deltas.append(Delta(Meaning.CONTENT, finish=finish, usage=Usage(5, 3)))
    encoder, decoder = MessagesEncoder(CALL), MessagesDecoder(native=True)
    raw = b"".join(map(encoder.encode, deltas)) + encoder.end()
    expected, found = Sent(), Sent()
    for delta in deltas:
        expected.add(delta)
    last = None
    for one in SseParser().feed(raw):
        delta = decoder.read(one)
        last = delta.usage or last
        found.add(delta)
    assert (found.text, found.finish, found.told) == (expected.text, finish, True)
    assert {(tool.id, tool.name): tool.arguments for tool in found.tools.values()} == {
        (tool.id, tool.name): tool.arguments or "{}" for tool in expected.tools.values()
    }
    assert last == Usage(5, 3)


@pytest.mark.parametrize("cut", range(1, len(STREAM)))
def test_an_answer_that_was_forwarded_so_far_is_brought_to_its_end(cut: int) -> None:
    """Wherever Anthropic's own stream was cut, what follows from elsewhere continues open blocks and indexes."""
    translation = MessagesAtAnthropic()
    decoder, encoder = translation.decoder(CALL), translation.encoder(CALL)
    rest = MessagesDecoder(native=True)
    sent = b""
    for one in STREAM[:cut]:
        raw = event(one)
        encoder.forwarded(raw, decoder.read(raw))
        rest.read(raw)
        sent += raw
    for one in STREAM[cut:]:
        said = rest.read(event(one))
        if said.meaning is Meaning.CONTENT and not said.reasoning:
            sent += encoder.encode(said)
    blocks, end = read_back(sent + encoder.end())
    whole, whole_end = read_back(b"".join(map(event, STREAM)))
    assert [block for block in blocks if block["type"] != "thinking"] == whole[1:]
    assert end["delta"]["stop_reason"] == whole_end["delta"]["stop_reason"]


def test_an_error_ends_a_stream_in_anthropics_frame() -> None:
    """`event: error`, which its clients raise."""
    raw = MessagesEncoder(CALL).error("the stream was cut", "stream_cut")
    assert raw.startswith(b"event: error\ndata: ")
    assert orjson.loads(data_of(raw) or b"") == {
        "type": "error",
        "error": {"type": "api_error", "message": "the stream was cut"},
        "request_id": "7",
    }


def test_a_finished_stream_is_the_whole_answer_it_would_have_been() -> None:
    """For the cache, if every part was kept; a call whose arguments are broken makes it none."""
    encoder, sent = MessagesEncoder(CALL), Sent()
    deltas = [
        Delta(Meaning.CONTENT, text="Hi "),
        Delta(Meaning.CONTENT, text="there"),
        Delta(Meaning.CONTENT, tools=(ToolDelta(0, "t", "f", '{"a":1}'),)),
        Delta(Meaning.CONTENT, finish="tool_calls", usage=Usage(4, 2), model="gpt-x"),
    ]
    for one in deltas:
        encoder.encode(one)
        sent.add(one)
    whole = orjson.loads(encoder.assembled(sent) or b"null")
    assert whole["content"] == [
        {"type": "text", "text": "Hi there"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ]
    assert (whole["stop_reason"], whole["usage"]["output_tokens"], whole["model"]) == ("tool_use", 2, "gpt-x")
    sent.add(Delta(Meaning.CONTENT, tools=(ToolDelta(0, arguments="}"),)))
    assert encoder.assembled(sent) is None


def test_a_whole_message_is_replayed_as_its_stream() -> None:
    """Thinking keeps its signature, blocks that nobody knows begin whole, the reason and the usage are told."""
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
    ]
    message = BEGIN["message"] | {"content": blocks, "stop_reason": "tool_use", "usage": {"output_tokens": 9}}
    found, end = read_back(events_of(message))
    assert found == blocks
    assert end["usage"] == {"output_tokens": 9}
    assert MessagesAtOpenAI().replayed(CALL, orjson.dumps(message)) == events_of(message)


JSON = st.recursive(
    st.one_of(st.none(), st.integers(-1, 3), st.text(max_size=3), st.sampled_from(["text", "tool_use", "text_delta"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from(["type", "index", "delta", "content_block", "text", "partial_json", "usage", "id", "name"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)
KINDS = st.sampled_from(
    ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "error"]
)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(KINDS, JSON, JSON, JSON), max_size=5), st.booleans(), st.binary(max_size=30))
def test_no_event_is_a_bug(events: list[tuple[str, Any, Any, Any]], native: bool, noise: bytes) -> None:
    """Whatever a provider streams has a meaning, and can be forwarded."""
    decoder, encoder = MessagesDecoder(native=native), MessagesEncoder(CALL)
    shaped = [
        b"data: "
        + orjson.dumps({"type": kind, "index": index, "delta": one, "content_block": two, "usage": two})
        + b"\n\n"
        for kind, index, one, two in events
    ]
    for raw in [*shaped, noise, b"data: " + noise + b"\n\n"]:
        found = decoder.read(raw)
        assert isinstance(found.meaning, Meaning)
        encoder.forwarded(raw, found)
    assert encoder.end() is not None


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["text", "thinking", "tool_use", "new"]), JSON, JSON), max_size=3), JSON)
def test_whatever_whole_a_provider_gives_can_be_replayed(blocks: list[tuple[str, Any, Any]], usage: Any) -> None:
    """A message that was judged good has a stream, and its blocks are in it."""
    content = [
        {"type": kind, kind: said, "input": odd, "citations": odd, "signature": odd} for kind, said, odd in blocks
    ]
    body = orjson.dumps({"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage})
    translation = MessagesAtAnthropic()
    translation.whole(CALL, body)
    events = SseParser().feed(translation.replayed(CALL, body) or b"")
    assert sum(one.startswith(b"event: content_block_start") for one in events) == len(blocks)
    assert events[-1] == event(END)
