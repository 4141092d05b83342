"""Which requests and answers the cache is for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.policy import Directives, directives, request_key, storable

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0.5}


@given(st.permutations(list(REQUEST.items())))
def test_cache_key_ignores_the_order_of_fields(items: list[tuple[str, object]]) -> None:
    """The same request has the same key, however its fields are ordered."""
    assert request_key(dict(items), "a") == request_key(REQUEST, "a")


@pytest.mark.parametrize("extra", [{"stream": True}, {"user": "u"}, {"metadata": {"k": "v"}}])
def test_cache_key_ignores_delivery(extra: dict[str, object]) -> None:
    """Fields that do not change the answer do not change the key."""
    assert request_key(REQUEST | extra, "a") == request_key(REQUEST, "a")


@pytest.mark.parametrize("extra", [{"temperature": 0.6}, {"seed": 1}, {"tools": []}, {"unknown": 1}, {"model": "n"}])
def test_cache_key_changes_with_meaning(extra: dict[str, object]) -> None:
    """Fields that may change the answer change the key, unknown ones too."""
    assert request_key(REQUEST | extra, "a") != request_key(REQUEST, "a")


def test_cache_key_is_private_to_the_caller() -> None:
    """Two callers never share an answer."""
    assert request_key(REQUEST, "a") != request_key(REQUEST, "b")


@pytest.mark.parametrize(
    ("header", "lookup", "store"),
    [
        ("", True, True),
        ("max-age=0", True, True),
        ("No-Cache", False, True),
        ("no-store", False, False),
        ("no-cache, no-store", False, False),
    ],
)
def test_cache_control(header: str, lookup: bool, store: bool) -> None:
    """`no-cache` skips the look-up and still stores, `no-store` does neither."""
    assert directives(header) == Directives(lookup, store)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([{"finish_reason": "stop"}], True),
        ([{"finish_reason": "length"}, {"finish_reason": "tool_calls"}], True),
        ([{"finish_reason": "content_filter"}], False),
        ([{"finish_reason": "stop"}, {"finish_reason": None}], False),
        ([], False),
        (None, False),
    ],
)
def test_cache_stores_only_whole_answers(choices: object, expected: bool) -> None:
    """An answer is stored only if each of its choices came to its own end."""
    assert storable({"choices": choices}) is expected
