"""Server-sent events: cutting a byte stream, whatever its line ends and wherever it was split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.sse import DONE, MAX_EVENT_BYTES, SseParser, data_of

_LINE = st.text(alphabet='ab{}:"\\é ', max_size=12).map(str.encode)
_FIELD = st.sampled_from([b"data: ", b"data:", b": ", b"event: ", b""])
_LINES = st.lists(st.tuples(_FIELD, _LINE), max_size=20)
_CUTS = st.lists(st.integers(0, 400), max_size=12)


def parse(wire: bytes, cuts: list[int]) -> list[bytes]:
    parser, events = SseParser(), []
    bounds = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for begin, end in itertools.pairwise(bounds):
        events += parser.feed(wire[begin:end])
    return events + parser.finish()


def told(events: list[bytes]) -> list[bytes]:
    """The data of those events that have any."""
    return [data for event in events if (data := data_of(event)) is not None]


def read_as_the_standard_says(lines: list[bytes]) -> list[bytes]:
    """The data of each event, by the interpretation in the HTML Living Standard, §9.2.6."""
    events, data = [], []
    for line in lines:
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
        elif data:
            events.append(b"\n".join(data))
            data = []
    return events


@given(_LINES, st.data(), _CUTS)
def test_sse_line_ends_and_splits_change_nothing(
    lines: list[tuple[bytes, bytes]], data: st.DataObject, cuts: list[int]
) -> None:
    """LF, CRLF and CR in any mixture, split anywhere, a byte order mark before them or not: the same data comes out."""
    plain = [name + text for name, text in lines] + [b""]
    drawn = data.draw(st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=len(plain), max_size=len(plain)))
    # A CR and an LF that meet are one line end, not two.
    ends = [
        b"\r\n" if end == b"\r" and after == b"" else end for end, after in zip(drawn, [*plain[1:], b"x"], strict=True)
    ]
    mark = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    wire = mark + b"".join(line + end for line, end in zip(plain, ends, strict=True))
    events = parse(wire, cuts)
    assert told(events) == read_as_the_standard_says(plain)
    assert all(event.endswith(b"\n\n") and b"\r" not in event for event in events)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_sse_an_event_is_there_with_its_blank_line(end: bytes) -> None:
    """No line end makes an event wait for the next one."""
    assert told(SseParser().feed(b"data: a" + end + end)) == [b"a"]


def test_sse_endless_event_is_refused() -> None:
    """An event that never ends is refused before it fills the memory, and one that is too long at once."""
    parser = SseParser()
    parser.feed(b"x" * MAX_EVENT_BYTES)
    with pytest.raises(ValueError, match="longer than"):
        parser.feed(b"x")
    with pytest.raises(ValueError, match="longer than"):
        SseParser().feed(b"data: " + b"x" * MAX_EVENT_BYTES + b"\n\n")


def test_sse_event_without_blank_line_counts_at_the_end() -> None:
    """A last event whose blank line never came is still there."""
    parser = SseParser()
    assert parser.feed(b"data: [DONE]\n") == []
    assert parser.finish() == [DONE]
    assert parser.finish() == []


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data:  a\n\n", b" a"),
        (b"event: x\ndata: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\n: comment\ndata: b\n\n", b"a\nb"),
        (b": comment\n\n", None),
        (b"\n\n", None),
    ],
)
def test_sse_data_of_an_event(event: bytes, data: bytes | None) -> None:
    """Data lines are joined; comments and other fields are none."""
    assert data_of(event) == data
