"""What all of OpenAI's operations have in common: bodies that go through, usage, error frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.call import Call, Usage
from proxy.dialects import nesting
from proxy.dialects.contract import Delta, MalformedError, Meaning, Whole
from proxy.dialects.sse import DONE, data_of

COMPLETE = frozenset({"stop", "length", "tool_calls", "function_call"})
"""Finish reasons of an answer that came to its own end."""
BROKEN = frozenset({"error", "abort"})
"""Finish reasons by which OpenRouter, vLLM and others say that they failed in the middle."""

NOTHING = Delta(Meaning.NOTHING)
MALFORMED = Delta(Meaning.MALFORMED)
ENDED = Delta(Meaning.DONE)
_NULL: tuple[object, ...] = (None, [], {}, "", False)


def request_body(call: Call, model: str, *, stream_usage: bool) -> bytes:
    """The caller's body as it came, unless the model has another name there, or the stream shall tell its usage."""
    fields = call.fields
    asks = call.stream and stream_usage and not call.usage
    given = fields.get("stream_options")
    unwelcome = not stream_usage and given is not None
    if fields.get("model") == model and not asks and not unwelcome:
        return call.body
    changed = {**fields, "model": model}
    if asks and (given is None or isinstance(given, dict)):
        changed["stream_options"] = {**(given or {}), "include_usage": True}
    elif unwelcome:
        del changed["stream_options"]
    return orjson.dumps(changed)


def usage_of(told: object) -> Usage | None:
    """OpenAI's `usage` object, or None if it is none."""
    if not isinstance(told, dict):
        return None
    details = told.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else told.get("prompt_cache_hit_tokens")
    return Usage(_count(told.get("prompt_tokens")), _count(told.get("completion_tokens")), _count(cached))


def usage_told(usage: Usage) -> dict[str, Any]:
    """The `usage` object that tells it."""
    told: dict[str, Any] = {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
    }
    if usage.cached:
        told["prompt_tokens_details"] = {"cached_tokens": usage.cached}
    return told


def whole_of(body: bytes) -> Whole:
    """Judges a completion that came with a 2xx; it goes through as it came. MalformedError."""
    parsed = object_of(body)
    choices = parsed.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise MalformedError(_said(parsed) or "no completion in it")
    if not all(isinstance(choice.get("message", {}), dict) for choice in choices):
        raise MalformedError("a choice whose message is none")
    finishes = [choice.get("finish_reason") for choice in choices]
    if not all(isinstance(finish, str | None) for finish in finishes) or BROKEN.intersection(finishes):
        raise MalformedError("the provider broke off in the middle")
    model = parsed.get("model")
    return Whole(
        body,
        usage_of(parsed.get("usage")),
        model if isinstance(model, str) else None,
        finishes[0],
        COMPLETE.issuperset(finishes),
    )


def object_of(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; MalformedError if there is none."""
    try:
        parsed = nesting.loads(body)
    except ValueError as error:
        raise MalformedError(f"not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise MalformedError("not a JSON object")
    return parsed


def refusal(status: int, body: bytes) -> bytes:
    """A provider's own 4xx in OpenAI's envelope: as it came, if it is one already."""
    try:
        parsed = object_of(body)
    except MalformedError:
        parsed = {}
    if isinstance(parsed.get("error"), dict):
        return body
    message = _said(parsed) or f"The provider answered {status}."
    kind = "invalid_request_error" if status < 500 else "server_error"
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}})


def event_of(content: Mapping[str, Any]) -> bytes:
    """One event of an OpenAI stream."""
    return b"data: " + orjson.dumps(content) + b"\n\n"


def error_frame(message: str, code: str) -> bytes:
    """The event that ends a broken stream in OpenAI's envelope; nothing follows it, no [DONE] either."""
    return event_of({"error": {"message": message, "type": "upstream_error", "param": None, "code": code}})


class Identity:
    """What all chunks of one answer have in common: learnt from the first content that was forwarded, or our own."""

    __slots__ = ("_call", "_head", "_kind", "_prefix", "_source", "model")

    def __init__(self, call: Call, kind: str, prefix: str) -> None:
        """`kind` is the chunks' `object`, `prefix` that of an id of our own."""
        self._call = call
        self._kind = kind
        self._prefix = prefix
        self._source: bytes | None = None
        self._head: dict[str, Any] | None = None
        self.model: str | None = None

    def learn(self, event: bytes) -> None:
        """Takes the first event with content as the answer's own; it is read only when it is needed."""
        if self._source is None:
            self._source = event

    @property
    def begun(self) -> bool:
        """Whether the caller has been sent anything."""
        return self._source is not None or self._head is not None

    def head(self) -> dict[str, Any]:
        """id, object, created and model of the next chunk."""
        if self._head is None:
            source = {} if self._source is None else orjson.loads(data_of(self._source) or b"{}")
            call = self._call
            self._head = {
                "id": source.get("id") or f"{self._prefix}-{call.id}",
                "object": self._kind,
                "created": source.get("created") or call.created,
                "model": source.get("model") or call.model,
            }
        if self.model:
            self._head["model"] = self.model
        return self._head


def error_delta(told: object) -> Delta:
    """An error frame inside a stream."""
    return Delta(Meaning.ERROR, error=told if isinstance(told, dict) else {"message": str(told)})


def broken_off() -> Delta:
    """A finish that is none."""
    return error_delta({"message": "the provider broke off in the middle"})


def unparsed(data: bytes) -> Delta:
    """What data is that is not JSON: the end, or a fault."""
    return ENDED if data.strip() == DONE[6:-2] else MALFORMED


def is_said(value: object) -> bool:
    """Whether a field of a delta says anything."""
    return value not in _NULL


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _said(parsed: Mapping[str, Any]) -> str | None:
    error = parsed.get("error")
    said = error.get("message") if isinstance(error, dict) else error
    for candidate in (said, parsed.get("message"), parsed.get("detail")):
        if isinstance(candidate, str) and candidate:
            return candidate
    return None
