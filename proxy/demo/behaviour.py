"""What the demo upstream may be told: `POST /_demo/behaviour` with a mode and its numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

REFUSALS = ("401", "402", "403", "404", "429", "500", "503")
"""Modes that answer every request with this status."""
MODES = (
    "ok",
    "slow",
    "late",
    "silent",
    "reset",
    *REFUSALS,
    "context",
    "filter",
    "filter_finish",
    "refuse_prefill",
    "cut",
    "stall",
    "malformed",
    "error_frame",
    "no_done",
)
LINE_ENDS = {"lf": (b"\n",), "crlf": (b"\r\n",), "cr": (b"\r",), "mixed": (b"\r\n", b"\r", b"\n")}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the next requests are answered.

    `late`: the headers and a role come at once, the first content after the delay. `reset`: the connection is reset
    before any answer. `context`: 400 for what is too long. `filter`: 400 by the content filter; `filter_finish`: 200
    that ends so. `refuse_prefill`: 400 for an assistant's beginning. `cut`, `stall`, `malformed`, `error_frame`: after
    `after_chunks`. `no_done`: without the end marker.
    """

    mode: str = "ok"
    delay_seconds: float | None = None
    """`slow`: before the answer (default 2); `late`: before the first content (default 20); `silent`: before the answer
    (default for ever); `no_done`: how long the connection stays open after the last chunk."""
    retry_after: float | None = None
    """Seconds in the `retry-after` header of an error."""
    after_chunks: int = 2
    """How many content chunks come before what the mode does to a stream."""
    chunks: int | None = None
    """Content chunks of a stream; None is one per word."""
    chunk_characters: int | None = None
    """Cuts what is said into chunks of so many characters instead of words."""
    chunk_delay_seconds: float = 0.0
    for_requests: int | None = None
    """After this many requests the behaviour is `ok` again; None is for ever."""
    text: str | None = None
    """What is answered to everything, word for word; None: the name and what was asked."""
    same_text: bool = False
    """Leaves the name out, so that two upstreams answer the same."""
    reasoning: str | None = None
    """What is thought aloud before the answer."""
    context_words: int | None = None
    """`context`: longer requests than this are too long; None: all."""
    context_models: tuple[str, ...] = ()
    """`context`: only for these models; empty: all."""
    line_ends: str = "lf"
    keys: dict[str, str] = field(default_factory=dict)
    """Modes for requests that come with these keys."""


def _seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 86_400


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1_000_000


def _positive(value: object) -> bool:
    return value is None or (_count(value) and value != 0)


def _words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _modes_of_keys(value: object) -> bool:
    return isinstance(value, dict) and all(mode in MODES for mode in value.values())


def _text(value: object) -> bool:
    return value is None or isinstance(value, str)


_Check = tuple[Callable[[object], bool], str]
_SECONDS: _Check = (lambda value: value is None or _seconds(value), "seconds from 0 to 86400, or null")
_POSITIVE: _Check = (_positive, "a positive whole number, or null")
_KEYS: dict[str, _Check] = {
    "mode": (lambda value: value in MODES, "one of " + ", ".join(MODES)),
    "delay_seconds": _SECONDS,
    "retry_after": _SECONDS,
    "after_chunks": (_count, "a whole number from 0 to 1000000"),
    "chunks": _POSITIVE,
    "chunk_characters": _POSITIVE,
    "chunk_delay_seconds": (_seconds, "seconds from 0 to 86400"),
    "for_requests": _POSITIVE,
    "text": (_text, "a text, or null"),
    "same_text": (lambda value: isinstance(value, bool), "true or false"),
    "reasoning": (_text, "a text, or null"),
    "context_words": (lambda value: value is None or _count(value), "a whole number from 0 to 1000000, or null"),
    "context_models": (_words, "an array of names"),
    "line_ends": (lambda value: value in LINE_ENDS, "one of " + ", ".join(LINE_ENDS)),
    "keys": (_modes_of_keys, "an object of modes by key"),
}


def parse_behaviour(body: bytes) -> Behaviour:
    """The behaviour that a JSON object asks for; ValueError names the key and what it may be."""
    try:
        wanted = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(wanted, dict):
        raise ValueError("expected a JSON object")
    for key, value in wanted.items():
        if key not in _KEYS:
            raise ValueError(f"{key}: unknown key; allowed are {', '.join(_KEYS)}")
        allowed, expected = _KEYS[key]
        if not allowed(value):
            raise ValueError(f"{key}: expected {expected}, not {value!r}")
    if "mode" not in wanted:
        raise ValueError(f"mode: missing; expected {_KEYS['mode'][1]}")
    if "context_models" in wanted:
        wanted["context_models"] = tuple(wanted["context_models"])
    return Behaviour(**wanted)
