"""Server-sent events: cutting, understanding, rebuilding."""

from __future__ import annotations

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.streaming import DONE, MAX_EVENT_BYTES, ChunkReader, Meaning, SseParser, data_of, error_frame, stream_of

_LINE = st.text(alphabet='ab{}:"\\é ', max_size=12).map(str.encode)
_END = st.sampled_from([b"\n", b"\r\n"])
_WIRE = st.lists(
    st.tuples(st.sampled_from([b"data: ", b"data:", b": ", b"event: ", b""]), _LINE, _END), max_size=20
).map(lambda lines: b"".join(itertools.chain.from_iterable(lines)) + b"\n\n")


@given(_WIRE, st.lists(st.integers(0, 300), max_size=12))
def test_sse_any_split_gives_the_same_events(wire: bytes, cuts: list[int]) -> None:
    """However the bytes are split on the way, the same events come out, and together they are all the bytes."""
    whole = SseParser()
    expected = whole.feed(wire) + whole.finish()
    parser, events = SseParser(), []
    bounds = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for begin, end in itertools.pairwise(bounds):
        events += parser.feed(wire[begin:end])
    assert events + parser.finish() == expected
    assert b"".join(expected).strip(b"\r\n") == wire.strip(b"\r\n") or not wire.strip(b"\r\n")


def test_sse_endless_line_is_refused() -> None:
    """An event that never ends is refused before it fills the memory."""
    parser = SseParser()
    parser.feed(b"x" * MAX_EVENT_BYTES)
    with pytest.raises(ValueError, match="longer than"):
        parser.feed(b"x")


def test_sse_event_without_blank_line_counts_at_the_end() -> None:
    """A last event whose blank line never came is still delivered."""
    parser = SseParser()
    assert parser.feed(b"data: [DONE]\n") == []
    assert parser.finish() == [DONE]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\r\n\r\n", b"a"),
        (b"event: x\ndata: a\ndata: b\n\n", b"a\nb"),
        (b": comment\n\n", None),
        (b"\n\n", None),
    ],
)
def test_sse_data_of_an_event(event: bytes, data: bytes | None) -> None:
    """Data lines are joined; comments and other fields are none."""
    assert data_of(event) == data


def chunk(**choice: object) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"index": 0, **choice}]}) + b"\n\n"


@pytest.mark.parametrize(
    ("event", "meaning"),
    [
        (chunk(delta={"role": "assistant", "content": ""}), Meaning.NOTHING),
        (chunk(delta={"content": "x"}), Meaning.CONTENT),
        (chunk(delta={"tool_calls": [{"index": 0}]}), Meaning.CONTENT),
        (chunk(delta={}, finish_reason="stop"), Meaning.CONTENT),
        (chunk(delta=None), Meaning.NOTHING),
        (b'data: {"choices": [], "usage": {}}\n\n', Meaning.NOTHING),
        (b": keep-alive\n\n", Meaning.NOTHING),
        (b'data: {"error": {"message": "no"}}\n\n', Meaning.ERROR),
        (b'data: {"error": "no"}\n\n', Meaning.ERROR),
        (b'data: {"choices": [{"del\n\n', Meaning.MALFORMED),
        (b"data: [1]\n\n", Meaning.MALFORMED),
        (b'data: {"choices": 3}\n\n', Meaning.MALFORMED),
        (DONE, Meaning.DONE),
    ],
)
def test_chunk_reader_understands(event: bytes, meaning: Meaning) -> None:
    """Each kind of event has one meaning."""
    assert ChunkReader(1).read(event) is meaning


def test_chunk_reader_is_finished_when_every_choice_is() -> None:
    """With two choices a stream is finished after the second finish_reason."""
    reader = ChunkReader(2)
    reader.read(chunk(finish_reason="stop"))
    assert not reader.finished
    reader.read(b'data: {"choices": [{"index": 1, "finish_reason": "length"}]}\n\n')
    assert reader.finished


def test_stream_of_an_answer_says_the_same() -> None:
    """A whole answer told as a stream carries its content, tool calls, finish reason and usage, and ends in [DONE]."""
    answer = {
        "id": "c1",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi", "tool_calls": [{"id": "t", "type": "function"}]},
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"total_tokens": 3},
    }
    parser = SseParser()
    events = parser.feed(stream_of(answer, usage=True))
    assert events[-1] == DONE
    chunks = [orjson.loads(data_of(event) or b"") for event in events[:-1]]
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["id"] == "c1" for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:3]]
    assert deltas == [
        {"role": "assistant"},
        {"content": "hi", "tool_calls": [{"index": 0, "id": "t", "type": "function"}]},
        {},
    ]
    assert chunks[2]["choices"][0]["finish_reason"] == "tool_calls"
    assert chunks[3] == {**chunks[3], "choices": [], "usage": {"total_tokens": 3}}
    reader = ChunkReader(1)
    assert [reader.read(event) for event in events].count(Meaning.MALFORMED) == 0


def test_error_frame_is_the_envelope() -> None:
    """A broken stream ends in OpenAI's error object."""
    error = orjson.loads(data_of(error_frame("gone", "stream_cut")) or b"")["error"]
    assert error == {"message": "gone", "type": "upstream_error", "param": None, "code": "stream_cut"}
