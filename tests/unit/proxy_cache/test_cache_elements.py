"""A large document's elements, taken out while it is coming."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.cache.operations.elements import Elements

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text('ab"\\{}[],:\n é', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "entries", '"}']), inner),
    max_leaves=8,
)
ENTRIES = st.lists(st.dictionaries(st.sampled_from(["a", "b", "entries"]), VALUES), max_size=5)


def taken(document: bytes, sizes: list[int]) -> tuple[list[Any], dict[str, object]]:
    elements, found, at = Elements("entries", 10_000), [], 0
    while at < len(document):
        size = sizes[at % len(sizes)]
        found += elements.feed(document[at : at + size])
        at += size
    return [orjson.loads(element) for element in found], elements.finish()


@settings(max_examples=40)
@given(ENTRIES, VALUES, st.booleans(), st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_elements_are_those_of_the_document(
    entries: list[Any], other: object, indented: bool, sizes: list[int]
) -> None:
    """Whatever the entries hold, however the document is laid out and cut, they come out whole and in order."""
    document = {"before": other, "nested": {"entries": [{"no": 1}]}, "entries": entries, "after": other}
    raw = orjson.dumps(document, option=orjson.OPT_INDENT_2 if indented else 0)
    found, around = taken(raw, sizes)
    assert found == entries
    assert around == document | {"entries": [0] * len(entries)}


@settings(max_examples=40)
@given(ENTRIES, st.data())
def test_cut_document_is_refused(entries: list[Any], data: st.DataObject) -> None:
    """A document that ends anywhere before its end is not taken for whole."""
    raw = orjson.dumps({"entries": entries, "count": len(entries)})
    with pytest.raises(ValueError):
        taken(raw[: data.draw(st.integers(0, len(raw) - 1))], [7])


@settings(max_examples=40)
@given(st.binary(max_size=60), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_any_bytes_are_read_or_refused(raw: bytes, sizes: list[int]) -> None:
    """Bytes that are no such document end in a ValueError and nothing else."""
    with pytest.raises(ValueError):
        taken(raw, sizes)


@pytest.mark.parametrize(
    "raw",
    [b'{"entries":[{"a":1}{"b":2}]}', b'{"entries":[{"a":1},]}', b'{"entries":[{"a":1}]} x', b'{"entries":{"a":[{}]}}'],
    ids=["no_comma", "comma_too_many", "trailing", "no_array"],
)
def test_what_is_between_the_elements_is_judged_too(raw: bytes) -> None:
    """Elements that can be read do not make up for a document that is no JSON."""
    with pytest.raises(ValueError):
        taken(raw, [5])


def feed(elements: Elements, part: bytes, times: int) -> None:
    for _ in range(times):
        elements.feed(part)


def test_memory_is_bounded() -> None:
    """An element, or what is around the elements, that goes on and on is refused long before it ends."""
    for begin in (b'{"entries":[{"a":"', b'{"entries":["', b'{"x":"'):
        elements = Elements("entries", 10_000)
        elements.feed(begin)
        with pytest.raises(ValueError, match="larger than"):
            feed(elements, b"x" * 1000, 100)
    elements = Elements("entries", 10_000)
    elements.feed(b'{"x":[')
    with pytest.raises(ValueError, match="too much"):
        feed(elements, b"1," * 500, 2000)
