"""One HTTP exchange: what a handler is given, what it answers, and how far the answer has come."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from proxy.auth import Caller
from proxy.call import Account
from proxy.dialects.anthropic.errors import error_body
from proxy.errors import ApiError

Headers = list[tuple[bytes, bytes]]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ON_DISCONNECT = "llm_proxy.on_disconnect"
"""Key of the ASGI scope under which a request leaves what the server calls when the client goes away early."""

WHOLE_ANSWER = "llm_proxy.whole_answer"
"""Key of the ASGI scope under which our server offers `SendWhole`; another server need not."""

SendWhole = Callable[[int, Headers, bytes], Awaitable[None]]
"""Sends status, headers (with the content-length) and body at once. ValueError for a header with a line break in it."""

_JSON = (b"content-type", b"application/json")
_MESSAGES = "/v1/messages"
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


class GatewayReply(Protocol):
    """What the gateway answers a completion with; a body that is an iterator is a stream."""

    status: int
    headers: Headers
    body: bytes | AsyncIterator[bytes]
    account: Account | None


@dataclass(slots=True)
class Plain:
    """A whole answer."""

    status: int
    body: bytes | AsyncIterator[bytes]
    headers: Headers
    account: Account | None = None


@dataclass(slots=True)
class Request:
    """One request, as handlers see it. `argument` is the variable part of the path."""

    headers: dict[str, str]
    caller: Caller | None
    id: str
    argument: str
    body: bytes


Handler = Callable[[Request], Awaitable[GatewayReply]]


class Exchange:
    """One request and how far its answer has come."""

    __slots__ = (
        "began",
        "caller",
        "gone",
        "headers",
        "id",
        "label",
        "method",
        "path",
        "peer",
        "send",
        "send_whole",
        "status",
    )

    def __init__(self, scope: Scope, send: Send, began: float) -> None:
        self.began = began
        self.send = send
        self.send_whole: SendWhole = scope.get(WHOLE_ANSWER) or self._send_in_two
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        client = scope.get("client")
        self.peer: str | None = client[0] if client else None
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = self.headers.get("x-request-id", "")
        self.id = given if 0 < len(given) <= 64 and _ID_CHARACTERS.issuperset(given) else os.urandom(8).hex()
        self.label = "other"
        self.caller: Caller | None = None
        self.status = 0
        self.gone = False

    async def _send_in_two(self, status: int, headers: Headers, body: bytes) -> None:
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def client_gone(self, task: asyncio.Task[Any]) -> Callable[[], None]:
        """What to call when the client goes away: cancels the work, so that the upstream is closed at once."""

        def gone() -> None:
            self.gone = True
            task.cancel()

        return gone


def json_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object; ApiError 400 if it is none."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(document, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    return document


def is_number(value: object) -> bool:
    """Whether JSON gave a number; its true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def document(content: Any, status: int = 200) -> Plain:
    """A JSON answer."""
    return Plain(status, orjson.dumps(content), [_JSON])


def envelope(error: ApiError, path: str, request_id: str) -> Plain:
    """An error in the dialect of who calls `path`: Anthropic's envelope below its endpoint, OpenAI's elsewhere."""
    headers: Headers = [_JSON, *error.headers]
    if error.retryable is not None:
        headers.append((b"x-should-retry", b"true" if error.retryable else b"false"))
    if path.startswith(_MESSAGES):
        headers.append((b"request-id", request_id.encode()))
        return Plain(error.status, error_body(error.status, error.message, request_id), headers)
    return Plain(error.status, error.body(), headers)
