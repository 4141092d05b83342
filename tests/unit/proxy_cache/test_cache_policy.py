"""What callers may want of the caches, and under which keys answers lie."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.policy import PLAIN, Wish, is_summary, namespace_of, request_key, wish
from proxy.call import Call, Operation
from proxy.errors import ApiError
from proxy.settings import ResponseCache, SummaryCache

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0.5}


def call(fields: dict[str, Any] | None = None, **changes: Any) -> Call:
    fields = REQUEST if fields is None else fields
    asked = {"operation": Operation.CHAT, "model": "m", "stream": False, "id": "r", "caller": "anna", **changes}
    return Call(body=orjson.dumps(fields), fields=fields, **asked)


def key(fields: dict[str, Any] | None = None, namespace: str = "key:anna", version: str = "", **changes: Any) -> bytes:
    return request_key(call(fields, **changes), namespace, version)


@given(st.permutations(list(REQUEST.items())))
def test_cache_key_ignores_the_order_of_fields(items: list[tuple[str, object]]) -> None:
    """The same request has the same key, however its fields are ordered."""
    assert key(dict(items)) == key(REQUEST)


@pytest.mark.parametrize("extra", [{"stream": True}, {"user": "u"}, {"metadata": {"k": "v"}}])
def test_cache_key_ignores_delivery(extra: dict[str, object]) -> None:
    """Fields that do not change the answer do not change the key."""
    assert key(REQUEST | extra) == key(REQUEST)


@pytest.mark.parametrize("extra", [{"temperature": 0.6}, {"seed": 1}, {"tools": []}, {"unknown": 1}, {"model": "n"}])
def test_cache_key_changes_with_meaning(extra: dict[str, object]) -> None:
    """Fields that may change the answer change the key, unknown ones too."""
    assert key(REQUEST | extra) != key(REQUEST)


@pytest.mark.parametrize(
    "other",
    [
        {"namespace": "key:ben"},
        {"version": "2"},
        {"operation": Operation.MESSAGES},
        {"passed": (("anthropic-beta", "x"),)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_cache_key_keeps_realms_apart(other: dict[str, Any]) -> None:
    """Callers, versions, operations and headers for the provider never share an answer."""
    assert key(**other) != key()


@given(st.tuples(st.text(max_size=6), st.text(max_size=6)), st.tuples(st.text(max_size=6), st.text(max_size=6)))
def test_cache_key_confuses_no_realms(one: tuple[str, str], two: tuple[str, str]) -> None:
    """Whatever characters a namespace and a version have, two different pairs have different keys."""
    assert (key(namespace=one[0], version=one[1]) == key(namespace=two[0], version=two[1])) is (one == two)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("No-Cache", Wish(lookup=False)),
        ("no-store", Wish(lookup=False, store=False)),
        ("no-cache, no-store", Wish(lookup=False, store=False)),
        ("max-age=0", Wish(lookup=False, max_age=0)),
        ("max-age=60", Wish(max_age=60)),
        ("max-age=nonsense, Max-Stale", Wish(max_stale=float("inf"))),
        ('max-stale="30"', Wish(max_stale=30)),
        ("only-if-cached, stale-if-error=600", Wish(only=True, stale_if_error=600)),
        ("something=else", Wish()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_cache_control(header: str, expected: Wish) -> None:
    """Directives of RFC 9111 and RFC 5861; those not understood are ignored."""
    assert wish({"cache-control": header}) == expected


def test_our_own_headers_are_understood() -> None:
    """Time to live, namespace and the mark of a summary; without any header nothing is special."""
    asked = wish({"x-cache-ttl": "1h30m", "x-cache-namespace": "team.a", "x-cache": "Summary"})
    assert asked == Wish(ttl=5400, namespace="team.a", summary=True)
    assert wish({"accept": "*/*"}) is PLAIN


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-cache-ttl", "600"),
        ("x-cache-ttl", "0"),
        ("x-cache-ttl", "400d"),
        ("x-cache-namespace", ""),
        ("x-cache-namespace", "a/b"),
        ("x-cache-namespace", "x" * 65),
    ],
)
def test_nonsense_in_our_own_headers_is_refused(header: str, value: str) -> None:
    """A header of ours that says nothing sensible is a 400 that names it."""
    with pytest.raises(ApiError, match=header) as caught:
        wish({header: value})
    assert (caught.value.status, caught.value.param) == (400, header)


def test_namespaces_are_private_unless_they_are_shared() -> None:
    """A named namespace belongs to the key that names it; a shared one to those that may name it, and to no other."""
    settings = ResponseCache.model_validate({"shared_namespaces": ["all", {"name": "team", "keys": ["anna", "ben"]}]})
    assert namespace_of("anna", "", settings) == "key:anna"
    assert namespace_of("anna", "notes", settings) != namespace_of("ben", "notes", settings)
    assert namespace_of("anna", "all", settings) == namespace_of("carl", "all", settings)
    assert namespace_of("anna", "team", settings) == namespace_of("ben", "team", settings)
    with pytest.raises(ApiError) as caught:
        namespace_of("carl", "team", settings)
    assert (caught.value.status, caught.value.code) == (403, "namespace_forbidden")


@pytest.mark.parametrize(
    ("fields", "wanted", "expected"),
    [
        ({}, Wish(summary=True), True),
        ({"metadata": {"purpose": "summary"}}, Wish(), True),
        ({"metadata": {"purpose": "chat"}}, Wish(), False),
        ({"metadata": "summary"}, Wish(), False),
        ({}, Wish(), False),
    ],
)
def test_summaries_are_told_by_their_marks(fields: dict[str, Any], wanted: Wish, expected: bool) -> None:
    """A header, a purpose or the model makes a request a summary, if there is a cache for such."""
    assert is_summary(call(REQUEST | fields), wanted, SummaryCache()) is expected
    assert is_summary(call(REQUEST | fields), wanted, SummaryCache(models=("m",)))
    assert not is_summary(call(REQUEST | fields), wanted, SummaryCache(enabled=False, models=("m",)))
