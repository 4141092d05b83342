"""How a relayed stream may end, over real sockets."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest

from proxy.dialects.sse import DONE, SseParser, data_of
from proxy.routing.outcome import Failure, Fault
from proxy.streams.contract import Ending
from proxy.upstream import UpstreamError


def event(**fields: Any) -> bytes:
    return b"data: " + orjson.dumps({"id": "c1", "created": 1, "model": "m-1", **fields}) + b"\n\n"


def said(text: str) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}])


FINISH = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})
CLEAN = [said("one "), said("two"), FINISH, USAGE, DONE, "end"]


def frames(received: bytes) -> list[Any]:
    data = [data_of(one) for one in SseParser().feed(received)]
    return ["DONE" if one == b"[DONE]" else orjson.loads(one or b"null") for one in data]


def text_of(received: bytes) -> str:
    chunks = [frame for frame in frames(received) if isinstance(frame, dict)]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", []))


def code_of(received: bytes) -> str:
    """The code of the error frame that must be the last."""
    assert DONE not in received
    code: str = frames(received)[-1]["error"]["code"]
    return code


async def test_a_whole_stream_goes_through_as_it_came(streams: Any) -> None:
    """Each event arrives byte for byte; the usage is told of, the answer can be kept, the connection is used again."""
    received = await streams.received(*CLEAN, stream_options={"include_usage": True})
    assert received == b"".join(step for step in CLEAN if isinstance(step, bytes))
    totals = streams.totals[0]
    assert (totals.ending, totals.model, totals.finish) == (Ending.COMPLETE, "m-1", "stop")
    assert (totals.usage.input, totals.usage.output) == (3, 2)
    assert orjson.loads(streams.wholes[0].body)["choices"][0]["message"]["content"] == "one two"
    await streams.received(*CLEAN)
    assert streams.provider.connections == 1


async def test_usage_is_for_who_asked(streams: Any) -> None:
    """A caller that did not ask for the usage does not see its event, and it is told of all the same."""
    received = await streams.received(*CLEAN)
    assert received == b"".join(step for step in CLEAN if isinstance(step, bytes) and step is not USAGE)
    assert streams.totals[0].usage.output == 2


@pytest.mark.parametrize("last", ["cut", "end"])
@pytest.mark.parametrize(
    "half", [b"", b'data: {"id": "c1", "choices": [{"del', said("two")[:-2]], ids=["", "half", "all"]
)
async def test_a_cut_stream_ends_in_an_error_frame(streams: Any, last: str, half: bytes) -> None:
    """Cut by a reset or by an end that is none, between events or in one: the caller is told, and no [DONE] comes."""
    steps = [said("one "), 0.01, *([half] if half else []), last]
    received = await streams.received(*steps)
    assert code_of(received) == "stream_cut"
    assert "one two".startswith(text_of(received))
    assert streams.ends == [Ending.CUT]
    assert (streams.totals[0].ending, streams.wholes) == (Ending.CUT, [])


async def test_a_stalled_stream_ends_after_the_idle_limit(streams: Any) -> None:
    """Silence after the first content is waited for as long as is allowed and no longer; the provider is let go."""
    began = time.monotonic()
    received = await streams.received(said("one "), "hold", idle=0.3)
    assert 0.3 <= time.monotonic() - began < 3
    assert code_of(received) == "stream_stalled"
    await asyncio.wait_for(streams.provider.gone.wait(), 45)


async def test_a_slow_stream_is_no_stalled_one(streams: Any) -> None:
    """Pauses below the limit may add up to more than it."""
    steps: list[Any] = []
    for _ in range(6):
        steps += [said("x"), 0.15]
    received = await streams.received(*steps, *CLEAN[2:], idle=0.45)
    assert (text_of(received), frames(received)[-1]) == ("xxxxxx", "DONE")


async def test_a_malformed_chunk_is_left_out(streams: Any) -> None:
    """The rest is delivered to its end; what has a hole is not kept."""
    received = await streams.received(said("one "), b'data: {"id": "broken\n\n', *CLEAN[1:])
    assert (text_of(received), frames(received)[-1]) == ("one two", "DONE")
    assert b"broken" not in received
    assert (streams.totals[0].malformed, streams.wholes) == (1, [])


@pytest.mark.parametrize("last", ["cut", "end", "hold"])
@pytest.mark.parametrize("usage", [True, False], ids=["usage", "no-usage"])
async def test_a_stream_without_done_is_finished_promptly(streams: Any, last: str, usage: bool) -> None:
    """After its finish an answer is whole, whatever becomes of the line: the usage is told and [DONE] added."""
    began = time.monotonic()
    steps = [said("one two"), FINISH, *([USAGE] if usage else []), last]
    received = await streams.received(*steps, idle=5, stream_options={"include_usage": True})
    assert time.monotonic() - began < 4
    assert frames(received).count("DONE") == 1
    assert received.endswith(DONE)
    assert (USAGE in received) is usage
    assert (streams.totals[0].ending, streams.ends) == (Ending.COMPLETE, [Ending.COMPLETE])
    assert len(streams.wholes) == 1


async def test_an_error_frame_in_the_stream_is_the_end(streams: Any) -> None:
    """A provider's error inside its 200 ends the answer with its words, though it sends [DONE] afterwards."""
    frame = event(error={"message": "overloaded", "code": "x"})
    received = await streams.received(said("one "), frame, DONE, "end")
    assert code_of(received) == "stream_failed"
    assert frames(received)[-1]["error"]["message"] == "overloaded"
    assert streams.ends == [Ending.FAILED]


@pytest.mark.parametrize("end", [b"\r\n", b"\r"], ids=["crlf", "cr"])
async def test_other_line_ends_are_understood(streams: Any, end: bytes) -> None:
    """CRLF and CR are line ends too, also where a read parts them."""
    steps = [step.replace(b"\n", end) if isinstance(step, bytes) else step for step in CLEAN]
    halves: list[Any] = []
    for step in steps:
        halves += [step[:-1], 0.01, step[-1:]] if isinstance(step, bytes) else [step]
    received = await streams.received(*halves)
    assert (text_of(received), frames(received)[-1]) == ("one two", "DONE")


async def test_an_event_beyond_the_limit_is_a_failure(streams: Any) -> None:
    """Nobody can fill the memory with one event, before the first content or after it."""
    big = [b"data: " + b"x" * 1_000_000, *[b"x" * 1_000_000] * 4, "hold"]
    assert code_of(await streams.received(said("one "), *big, idle=5)) == "stream_failed"
    outcome = await streams.opened(streams.call(), *big)
    assert isinstance(outcome, Failure)
    assert outcome.fault is Fault.MALFORMED


@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        ([DONE, "end"], Fault.MALFORMED),
        ([event(choices=[{"index": 0, "delta": {"role": "assistant"}}]), "end"], Fault.MALFORMED),
        ([event(error={"message": "no"}), "end"], Fault.OUTAGE),
        ([b": ping\n\n", b"data: {\n\n", "end"], Fault.MALFORMED),
    ],
    ids=["done", "role", "error", "nothing"],
)
async def test_a_stream_without_content_is_a_failure(streams: Any, steps: list[Any], fault: Fault) -> None:
    """Nothing was sent yet, so that another provider can be asked."""
    outcome = await streams.opened(streams.call(), *steps)
    assert isinstance(outcome, Failure)
    assert outcome.fault is fault


async def test_a_stream_cut_before_content_is_an_error(streams: Any) -> None:
    """A reset after the head is the connection's failure."""
    with pytest.raises(UpstreamError):
        await streams.opened(streams.call(), b": ping\n\n", "cut")


@pytest.mark.parametrize("read_first", [True, False], ids=["reading", "unread"])
async def test_a_caller_that_leaves_closes_the_provider(streams: Any, read_first: bool) -> None:
    """The provider's connection is closed at once, and the ending says whose doing it was."""
    relay = await streams.relay(said("one "), "hold", idle=30)
    if read_first:
        await anext(relay)
    await relay.aclose()
    await relay.aclose()
    await asyncio.wait_for(streams.provider.gone.wait(), 45)
    assert (streams.ends, [totals.ending for totals in streams.totals]) == ([Ending.ABANDONED], [Ending.ABANDONED])


async def test_a_caller_cancelled_while_waiting_closes_the_provider(streams: Any) -> None:
    """A task that waits for the next chunk can be cancelled, and is not taken for a stall."""
    relay = await streams.relay(said("one "), "hold", idle=30)
    await anext(relay)
    waiting = asyncio.ensure_future(anext(relay))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await relay.aclose()
    await asyncio.wait_for(streams.provider.gone.wait(), 45)
    assert streams.ends == [Ending.ABANDONED]


async def test_the_provider_is_read_no_faster_than_the_caller_takes(streams: Any, until: Any) -> None:
    """A caller that takes nothing holds the provider back before it has sent everything."""
    many = [said("x" * 60_000)] * 400
    relay = await streams.relay(*many, *CLEAN[2:], idle=30)
    await anext(relay)
    before = -1
    while streams.provider.written != before:
        before = streams.provider.written
        await asyncio.sleep(0.2)
    assert before < 300 * 60_000
    received = b"".join([part async for part in relay])
    assert received.endswith(DONE)
    await relay.aclose()


async def test_a_cut_stream_is_continued_over_the_wire(streams: Any) -> None:
    """The second provider's stream says it all again in other chunks; the caller sees one answer to its end."""
    second = [said("on"), said("e tw"), said("o"), FINISH, USAGE, DONE, "end"]
    received = await streams.received(said("one "), "cut", then=[second], stream_options={"include_usage": True})
    assert (text_of(received), frames(received)[-1]) == ("one two", "DONE")
    assert frames(received)[-2]["usage"]["completion_tokens"] == 2
    assert streams.ends == [Ending.CUT, Ending.COMPLETE]
    assert (streams.totals[0].continued, streams.totals[0].usage.output) == (1, 2)


async def test_a_stalled_stream_is_continued_over_the_wire(streams: Any) -> None:
    """A stall is continued like a cut; a continuation that stalls before it agrees is replaced too."""
    then = [[said("o"), "hold"], [said("x"), *CLEAN], CLEAN]
    received = await streams.received(said("one "), "hold", then=then, idle=0.2)
    assert (text_of(received), frames(received)[-1]) == ("one two", "DONE")
    assert streams.ends == [Ending.STALLED, Ending.STALLED, Ending.DISAGREED, Ending.COMPLETE]
    assert streams.totals[0].continued == 1


async def test_what_nobody_can_continue_tells_the_first_fault(streams: Any) -> None:
    """When every continuation fails the caller hears of the first stream's end."""
    received = await streams.received(said("one "), "cut", then=[[said("two"), "end"], [DONE, "end"]])
    assert (code_of(received), text_of(received)) == ("stream_cut", "one ")
    assert streams.totals[0].continued == 0
