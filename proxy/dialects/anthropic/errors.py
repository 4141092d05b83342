"""Errors in Anthropic's envelope `{"type": "error", "error": {"type", "message"}, "request_id"}`, and out of it."""

from __future__ import annotations

from typing import Any

import orjson

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    431: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OPENAI_TYPES = {
    "authentication_error": "invalid_request_error",
    "not_found_error": "invalid_request_error",
    "request_too_large": "invalid_request_error",
}
_OPENAI_CODES = {
    "authentication_error": "invalid_api_key",
    "not_found_error": "model_not_found",
    "rate_limit_error": "rate_limit_exceeded",
    "request_too_large": "request_too_large",
}
_CONTEXT_EXCEEDED = ("prompt is too long", "exceed context limit")


def error_type(status: int) -> str:
    """Anthropic's type for an HTTP status."""
    return _TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "api_error")


def error_document(kind: str, message: str, request_id: str | None) -> dict[str, Any]:
    """The envelope; None for a request that has no id."""
    named = {} if request_id is None else {"request_id": request_id}
    return {"type": "error", "error": {"type": kind, "message": message}, **named}


def error_body(status: int, message: str, request_id: str | None) -> bytes:
    """An error of the proxy's own, as JSON."""
    return orjson.dumps(error_document(error_type(status), message, request_id))


def from_openai(status: int, body: bytes) -> bytes:
    """A refusal of a provider that speaks OpenAI's dialect, for a caller of Anthropic's."""
    _, message = _said(status, body)
    return error_body(status, message, None)


def to_openai(status: int, body: bytes) -> bytes:
    """A refusal of Anthropic's for a caller who speaks OpenAI's dialect, with OpenAI's code where there is one."""
    kind, message = _said(status, body)
    code = _OPENAI_CODES.get(kind)
    if kind == "invalid_request_error" and any(words in message for words in _CONTEXT_EXCEEDED):
        code = "context_length_exceeded"
    told = {"message": message, "type": _OPENAI_TYPES.get(kind, kind), "param": None, "code": code}
    return orjson.dumps({"error": told})


def native(status: int, body: bytes) -> bytes:
    """A refusal of Anthropic's for a caller of its own: as it came, unless it came as something else."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = None
    match told:
        case {"type": "error", "error": {"type": str(_), "message": str(_)}}:
            return body
    return from_openai(status, body)


def _said(status: int, body: bytes) -> tuple[str, str]:
    """Type and message of an error in either envelope; of our own making if it is in neither."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = None
    kind, message = error_type(status), f"The provider answered {status}."
    match told:
        case {"error": {"message": str(text)} as error}:
            named = error.get("type")
            return (named if isinstance(named, str) else kind), text or message
        case {"error": str(text)} | {"message": str(text)}:
            return kind, text or message
    return kind, message
