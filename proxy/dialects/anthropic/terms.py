"""The same things in both dialects' words: why an answer ended, what it used, what a tool call is called."""

from __future__ import annotations

import re
from typing import Any

from proxy.call import Usage

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_STOP_REASON = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_NOT_IN_TOOL_IDS = re.compile(r"[^a-zA-Z0-9_-]")


def finish_of(stop_reason: str) -> str:
    """OpenAI's finish reason for Anthropic's stop reason; one that is new to us is `stop`."""
    return _FINISH.get(stop_reason, "stop")


def stop_reason_of(finish: str | None) -> str:
    """Anthropic's stop reason for OpenAI's finish reason; one that is new to us is `end_turn`."""
    return _STOP_REASON.get(finish or "", "end_turn")


def tool_id(given: str) -> str:
    """A tool call's id as Anthropic accepts it, the same each time. Others' have colons and dots in them."""
    return _NOT_IN_TOOL_IDS.sub("_", given)


def usage_of(told: object, before: Usage | None = None) -> Usage | None:
    """What Anthropic's `usage` says; what it leaves out stands as `before`. None if it says nothing at all."""
    if not isinstance(told, dict):
        return before
    earlier = before or Usage()
    written = _count(told, "cache_creation_input_tokens", earlier.cache_written)
    cached = _count(told, "cache_read_input_tokens", earlier.cached)
    fresh = _count(told, "input_tokens", earlier.input - earlier.cached - earlier.cache_written)
    output = _count(told, "output_tokens", earlier.output)
    return Usage(fresh + cached + written, output, cached, written)


def _count(told: dict[str, Any], name: str, otherwise: int) -> int:
    value = told.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise


def anthropic_usage(usage: Usage | None) -> dict[str, int]:
    """`usage` of a Messages answer, whose `input_tokens` are those that no cache had to do with."""
    known = usage or Usage()
    return {
        "input_tokens": max(0, known.input - known.cached - known.cache_written),
        "cache_creation_input_tokens": known.cache_written,
        "cache_read_input_tokens": known.cached,
        "output_tokens": known.output,
    }
