"""Reading a request of the control API: the daemon behind it, who asks, what was sent. Raises RefusedError (400)."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from watchdog.api.commands import RefusedError
from watchdog.api.parts import Parts


def parts_of(request: Request) -> Parts:
    """The daemon's parts."""
    parts: Parts = request.app.state.parts
    return parts


def who(request: Request) -> str:
    """The caller, by the credentials that the kernel vouches for."""
    return str(request.state.who)


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object that was sent; nothing sent is an empty one."""
    raw = await request.body()
    try:
        content = json.loads(raw) if raw else {}
    except ValueError as error:
        raise RefusedError(400, f"the body is not JSON: {error}", "send a JSON object") from None
    if not isinstance(content, dict):
        raise RefusedError(400, "the body is not a JSON object", 'send {"name": value}')
    return content


def duration_in(body: dict[str, Any], *, required: bool) -> float | None:
    """`duration` in seconds, more than 0; None where it is not required and not there."""
    value = body.get("duration")
    if value is None and not required:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise RefusedError(400, f"`duration` is {value!r}", "send seconds, more than 0")
    return float(value)


def whole(text: str, name: str) -> int:
    """A whole number of a query."""
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise RefusedError(400, f"`{name}` is {text!r}", "expected a whole number")
    return int(text)


def seconds_of(text: str, name: str) -> float:
    """Seconds of a query."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise RefusedError(400, f"`{name}` is {text!r}", "expected seconds")
    return value
