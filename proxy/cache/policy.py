"""PURE: which requests and answers the response cache is for, and under which key."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

KEY_BYTES = 16
_NOT_SEMANTIC = frozenset({"stream", "stream_options", "user", "metadata", "store", "safety_identifier"})
"""Fields that change how or for whom an answer is delivered, not what it says."""
_COMPLETE = frozenset({"stop", "length", "tool_calls", "function_call"})


@dataclass(frozen=True, slots=True)
class Directives:
    """What a caller's `cache-control` header allows."""

    lookup: bool
    store: bool


def directives(cache_control: str) -> Directives:
    """`no-store` allows neither, `no-cache` only storing; everything else both (RFC 9111 §5.2.1)."""
    if not cache_control:
        return Directives(lookup=True, store=True)
    words = {word.strip() for word in cache_control.lower().split(",")}
    if "no-store" in words:
        return Directives(lookup=False, store=False)
    return Directives(lookup="no-cache" not in words, store=True)


def request_key(request: dict[str, Any], namespace: str) -> bytes:
    """The key of every request that means the same in one caller's namespace, whatever the order of its fields."""
    meaning = {name: value for name, value in request.items() if name not in _NOT_SEMANTIC}
    digest = blake2b(orjson.dumps(meaning, option=orjson.OPT_SORT_KEYS), digest_size=KEY_BYTES)
    digest.update(b"\0" + namespace.encode("utf-8", "surrogateescape"))
    return digest.digest()


def storable(answer: dict[str, Any]) -> bool:
    """Whether a 200 answer is whole: each choice came to its own end, none was filtered or cut."""
    choices = answer.get("choices")
    return (
        isinstance(choices, list)
        and bool(choices)
        and all(isinstance(choice, dict) and choice.get("finish_reason") in _COMPLETE for choice in choices)
    )
