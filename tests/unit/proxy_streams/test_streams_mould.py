"""The quick way to read an event says what the thorough way says."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.chat import ChatDecoder
from proxy.dialects.contract import Delta, Meaning
from proxy.dialects.mould import mould_of

TEXT = st.text(alphabet='ab"\\\n{}:,é😀 ', max_size=8) | st.sampled_from(
    ['","finish_reason":"stop', '"}}]}', "\\u0041"]
)
STYLES: list[Any] = [
    orjson.dumps,
    lambda chunk: json.dumps(chunk).encode(),
    lambda chunk: json.dumps(chunk, ensure_ascii=False).encode(),
]


def chunk(text: Any, **beside: Any) -> dict[str, Any]:
    delta = {"content": text, **beside.pop("delta", {})}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": beside.pop("finish", None)}
    return {"id": "c", "model": "m", "system_fingerprint": '"content":"', "choices": [choice], **beside}


BESIDE: st.SearchStrategy[dict[str, Any]] = st.just({}) | st.sampled_from(
    [
        {"delta": {"role": "assistant"}},
        {"delta": {"annotations": [1]}},
        {"finish": "stop"},
        {"usage": {"prompt_tokens": 1}},
        {"obfuscation": "x"},
        {"model": "n"},
        {"error": "no"},
    ]
)
EVENTS = st.lists(st.tuples(TEXT | st.integers(-9, 9) | st.none(), BESIDE), max_size=8)


@given(
    EVENTS,
    st.sampled_from(STYLES),
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 250), st.binary(max_size=3)), max_size=3),
)
def test_the_quick_way_says_the_same(
    contents: list[tuple[Any, dict[str, Any]]], style: Any, damage: list[tuple[int, int, bytes]]
) -> None:
    """Whatever came before, however it was written and whatever damage was done, each event means what it means to
    a decoder that reads it alone."""
    events = [b"data: " + style(chunk(text, **dict(beside))) + b"\n\n" for text, beside in contents]
    for number, place, bytes_ in damage:
        if number < len(events):
            events[number] = events[number][:place] + bytes_.replace(b"\n", b"") + events[number][place:]
    decoder = ChatDecoder(1)
    assert [decoder.read(event) for event in events] == [ChatDecoder(1).read(event) for event in events]


@pytest.mark.parametrize("style", STYLES, ids=["compact", "spaced", "spaced-utf8"])
def test_plain_texts_have_a_mould(style: Any) -> None:
    """The commonest event is read the quick way, in each usual way of writing it."""
    first, second = (b"data: " + style(chunk(text)) + b"\n\n" for text in ("one ", 'a"\n'))
    mould = mould_of(first, Delta(Meaning.CONTENT, "one ", model="m"))
    assert mould is not None
    assert (mould.text_of(second), mould.model) == ('a"\n', "m")


def test_a_text_that_leaves_its_mould_is_none() -> None:
    """A text that would close its own string and go on as JSON is not read the quick way."""
    first = b'data: {"choices":[{"delta":{"content":"one"}}]}\n\n'
    mould = mould_of(first, Delta(Meaning.CONTENT, "one"))
    assert mould is not None
    assert mould.text_of(b'data: {"choices":[{"delta":{"content":"","x":""}}]}\n\n') is None
    assert mould.text_of(b'data: {"choices":[{"delta":{"content":"a\tb"}}]}\n\n') is None
    assert mould.text_of(first[:-1]) is None
