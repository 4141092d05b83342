"""The relay before streams that are cut anywhere, chunked anyhow, and continued by others who may say otherwise."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Sequence
from typing import Any, cast

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.call import Call, Operation
from proxy.dialects.continuation import modes
from proxy.dialects.contract import Dialect, Sent
from proxy.dialects.registry import translation
from proxy.dialects.sse import DONE, SseParser, data_of
from proxy.routing.outcome import Failure
from proxy.streams.contract import Ending, OpenStream, Resumed, Totals
from proxy.streams.opening import open_stream
from proxy.streams.relay import Limits, Relay

FIELDS = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "q"}]}
CALL = Call(Operation.CHAT, orjson.dumps(FIELDS), FIELDS, "m", True, "req", "me")
MAYBE = translation(Operation.CHAT, Dialect.OPENAI)
assert MAYBE is not None
CHAT = MAYBE


class Wire:
    """An answer whose body comes in these pieces and then ends."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = list(pieces)
        self.closed = False

    async def read_some(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.closed = True


def wire_of(texts: Sequence[str], name: str) -> bytes:
    """A whole stream that says these texts."""
    chunks: list[dict[str, Any]] = [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    chunks += [{"delta": {"content": text}, "finish_reason": None} for text in texts]
    chunks += [{"delta": {}, "finish_reason": "stop"}]
    events = [{"id": name, "created": 1, "model": name, "choices": [{"index": 0, **chunk}]} for chunk in chunks]
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events) + DONE


def cut_up(whole: bytes | str, cuts: Sequence[int]) -> list[Any]:
    bounds = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    return [whole[begin:end] for begin, end in itertools.pairwise(bounds) if begin < end]


def cut_off(wire: bytes, whole_events: int, more_bytes: int) -> bytes:
    """What is left of a stream that is cut in or after one of its events."""
    ends = [match.end() for match in re.finditer(rb"\n\n", wire)]
    kept = ends[min(whole_events, len(ends) - 1)]
    return wire[: kept + more_bytes]


async def opened(pieces: Sequence[bytes]) -> OpenStream | Failure:
    return await open_stream(cast("Any", Wire(pieces)), CHAT.decoder(CALL))


class Story:
    """What a caller got, and what was told of it."""

    def __init__(self) -> None:
        self.received = b""
        self.totals: list[Totals] = []
        self.endings: list[Ending] = []
        self.bodies: list[bytes] = []

    def at_end(self, ending: Ending, _message: str, _malformed: int) -> None:
        self.endings.append(ending)

    @property
    def events(self) -> list[bytes]:
        return [data for event in SseParser().feed(self.received) if (data := data_of(event)) is not None]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [orjson.loads(event) for event in self.events if event != b"[DONE]"]

    @property
    def text(self) -> str:
        return "".join(
            choice["delta"].get("content") or "" for chunk in self.chunks for choice in chunk.get("choices", [])
        )

    @property
    def failed(self) -> bool:
        return any("error" in chunk for chunk in self.chunks)

    @property
    def done(self) -> bool:
        return b"[DONE]" in self.events


async def tell(first: Sequence[bytes], others: Sequence[tuple[str, Sequence[bytes]]]) -> Story | None:
    """Relays `first` and continues it by `others`, each with the mode that it is meant for; None if it never began."""
    story, left = Story(), list(others)

    async def resume(sent: Sent, _ending: Ending, _message: str) -> Resumed | None:
        while left:
            mode, pieces = left.pop(0)
            stream = await opened(pieces)
            if isinstance(stream, OpenStream) and mode in modes(CALL, sent):
                stream.at_end = story.at_end
                return Resumed(stream, cast("Any", mode))
        return None

    stream = await opened(first)
    if isinstance(stream, Failure):
        return None
    stream.at_end = story.at_end
    limits = Limits(1.0, asyncio.get_running_loop().time() + 5)
    relay = Relay(stream, CHAT.encoder(CALL), limits, story.totals.append, same=True, resume=resume)
    relay.keep(lambda whole: story.bodies.append(whole.body))
    async for part in relay:
        story.received += part
    await relay.aclose()
    return story


def check_ending(story: Story) -> None:
    """Exactly one end, and nothing after it."""
    assert story.done != story.failed
    assert story.events[-1] == b"[DONE]" or "error" in orjson.loads(story.events[-1])
    assert (len(story.totals), story.events.count(b"[DONE]")) == (1, int(story.done))
    assert (story.totals[0].ending is Ending.COMPLETE) is story.done
    assert len({chunk["id"] for chunk in story.chunks if "id" in chunk}) == 1


MANY_CUTS = st.lists(st.integers(1, 8), min_size=2, max_size=6)
CUT = st.tuples(st.integers(0, 6), st.integers(0, 160))
OTHER = st.just("") | st.text(alphabet="ab ", max_size=6)
TEXT = st.text(alphabet='ab \n"\\é😀', max_size=16)
CUTS = st.lists(st.integers(0, 20), max_size=6)
SPLITS = st.lists(st.integers(0, 2000), max_size=8)


@settings(deadline=None, max_examples=200)
@given(TEXT, MANY_CUTS, CUT, SPLITS, st.integers(0, 8), OTHER, CUTS, SPLITS)
def test_relay_restart_gives_a_true_text_or_says_that_it_failed(
    text: str,
    cuts: list[int],
    end: tuple[int, int],
    splits: list[int],
    same: int,
    other: str,
    again: list[int],
    more: list[int],
) -> None:
    """However the first stream is chunked, cut and split, and however long the second says the same, the caller has a
    text that one of them truly said, or an error frame after a beginning of the first; never both."""
    second = text if same > 5 else text[: len(text) * same // 6] + other
    first = cut_off(wire_of(cut_up(text, cuts), "one"), *end)
    pieces = cut_up(wire_of(cut_up(second, again), "two"), more)
    story = asyncio.run(tell(cut_up(first, splits), [("restart", pieces)]))
    if story is None:
        return
    check_ending(story)
    if story.done:
        assert story.text in (text, second)
        assert orjson.loads(story.bodies[0])["choices"][0]["message"]["content"] == story.text
    else:
        assert text.startswith(story.text)
        assert second != text
        assert not story.bodies


@settings(deadline=None)
@given(TEXT, CUTS, CUT, SPLITS, TEXT, CUTS, SPLITS)
def test_relay_prefill_joins_what_was_sent_and_what_follows(
    text: str, cuts: list[int], end: tuple[int, int], splits: list[int], rest: str, again: list[int], more: list[int]
) -> None:
    """A prefilled continuation follows on what was sent but for its white space, which it must say first."""
    first = cut_off(wire_of(cut_up(text, cuts), "one"), *end)
    pieces = cut_up(wire_of(cut_up(rest, again), "two"), more)
    story = asyncio.run(tell(cut_up(first, splits), [("prefill", pieces)]))
    if story is None:
        return
    check_ending(story)
    if story.done and story.totals[0].continued:
        sent = [chunk["choices"][0]["delta"].get("content", "") for chunk in story.chunks if chunk["model"] == "one"]
        assert story.text == "".join(sent).rstrip() + rest
    elif story.done:
        assert story.text == text
    else:
        assert text.startswith(story.text)


@settings(deadline=None)
@given(TEXT, st.lists(CUT, min_size=1, max_size=4), SPLITS)
def test_relay_survives_several_cuts(text: str, ends: list[tuple[int, int]], splits: list[int]) -> None:
    """Cut again and again, the answer is whole as soon as one stream says it to its end."""
    wires = [wire_of(cut_up(text, [number]), f"s{number}") for number in range(len(ends) + 1)]
    pieces = [cut_up(cut_off(wire, *end), splits) for wire, end in zip(wires, ends, strict=False)] + [[wires[-1]]]
    story = asyncio.run(tell(pieces[0], [("restart", piece) for piece in pieces[1:]]))
    if story is not None:
        check_ending(story)
        assert (story.done, story.text) == (True, text)
        assert story.endings.count(Ending.COMPLETE) == 1


def events(*contents: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + orjson.dumps({"id": "c", "model": "m", **content}) + b"\n\n" for content in contents)


def content(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


def test_relay_with_a_hole_is_not_continued() -> None:
    """After a malformed chunk nobody knows what was lost, so that a cut ends in an error frame and nothing is kept."""
    first = events(content("one ")) + b"data: {broken\n\n" + events(content("three"))
    story = asyncio.run(tell([first], [("restart", [wire_of(["one ", "two ", "three"], "two")])]))
    assert story is not None
    assert (story.failed, story.text, story.bodies) == (True, "one three", [])
    assert story.totals[0].malformed == 1


def test_relay_does_not_ask_others_about_a_refusal() -> None:
    """A content filter that speaks up in the middle is passed on with its code, and nobody else is asked."""
    frame = {"error": {"message": "filtered", "code": "content_filter"}}
    story = asyncio.run(tell([events(content("one ")), events(frame)], [("restart", [wire_of(["one "], "two")])]))
    assert story is not None
    assert story.chunks[-1]["error"]["code"] == "content_filter"
    assert story.endings == [Ending.FAILED]


def test_relay_error_frame_is_continued_like_a_cut() -> None:
    """A provider that gives up with an error frame in its 200 is replaced; unreplaced its own words are told."""
    first = [events(content("one ")), events({"error": {"message": "overloaded", "code": "overloaded"}})]
    story = asyncio.run(tell(first, [("restart", [wire_of(["one two"], "two")])]))
    assert story is not None
    assert (story.text, story.done, story.totals[0].continued) == ("one two", True, 1)
    story = asyncio.run(tell(first, []))
    assert story is not None
    assert story.chunks[-1]["error"] == {
        "message": "overloaded",
        "type": "upstream_error",
        "param": None,
        "code": "stream_failed",
    }


def test_relay_never_ends_cleanly_after_an_error_frame() -> None:
    """Even after a finish an error frame makes the answer a failed one."""
    finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    story = asyncio.run(tell([events(content("one"), finish, {"error": {"message": "late"}})], []))
    assert story is not None
    assert (story.done, story.failed) == (False, True)


def test_relay_oversized_event_is_a_failure() -> None:
    """An event beyond the limit ends the stream as failed."""
    story = asyncio.run(tell([events(content("one")), b"data: " + b"x" * 5_000_000], []))
    assert story is not None
    assert story.chunks[-1]["error"]["code"] == "stream_failed"


def test_relay_continues_tool_calls_under_their_first_ids() -> None:
    """A tool call cut in its arguments is made whole by a stream that makes the same call under another id."""

    def tool(identity: str, *arguments: str) -> list[dict[str, Any]]:
        begun = {"index": 0, "id": identity, "type": "function", "function": {"name": "f", "arguments": ""}}
        parts = [begun, *({"index": 0, "function": {"arguments": piece}} for piece in arguments)]
        return [{"choices": [{"index": 0, "delta": {"tool_calls": [part]}}]} for part in parts]

    finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    first, second = events(*tool("t1", '{"a"')), events(*tool("t2", '{"', 'a": 1}'), finish) + DONE
    story = asyncio.run(tell([first], [("restart", [second])]))
    assert story is not None
    calls = [part for chunk in story.chunks for part in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert "".join(part["function"].get("arguments", "") for part in calls) == '{"a": 1}'
    assert [part["id"] for part in calls if "id" in part] == ["t1"]
    assert story.done
