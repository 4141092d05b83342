"""How an API shapes questions, answers and errors: what the demo upstream asks of each that it speaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from proxy.demo.speech import Answer, Part, Question


@dataclass(frozen=True, slots=True)
class Head:
    """What all of an answer's events have in common."""

    id: str
    """Without the API's prefix."""
    created: int
    """Epoch seconds."""
    model: str
    upstream: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A fault of every API, in each one's words."""

    status: int
    message: str
    openai: tuple[str, str | None]
    """type and code"""
    anthropic: tuple[int, str]
    """status and type"""


class Stream(Protocol):
    """One answer as events, which it has to be asked for in their order."""

    def opening(self) -> bytes:
        """What comes before any content."""
        ...

    def part(self, part: Part) -> bytes: ...

    def closing(self) -> bytes:
        """The finish and the usage."""
        ...

    def done(self) -> bytes:
        """The end marker."""
        ...


class Shape(Protocol):
    """One API."""

    def question(self, request: Mapping[str, Any]) -> Question:
        """Understands a request; ValueError, KeyError, TypeError or IndexError for one that is none."""
        ...

    def whole(self, head: Head, question: Question, answer: Answer) -> dict[str, Any]: ...

    def stream(self, head: Head, question: Question, answer: Answer, request: Mapping[str, Any]) -> Stream: ...

    def refuse(self, refusal: Refusal) -> tuple[int, dict[str, Any]]:
        """Status and body."""
        ...

    def error_event(self, refusal: Refusal) -> bytes: ...


def invalid(message: str, code: str | None = None) -> Refusal:
    """The request's own fault."""
    return Refusal(400, message, ("invalid_request_error", code), (400, "invalid_request_error"))


def said_in(content: object) -> str:
    """The text of a message's content, a string or parts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict) and "text" in part)
    return "" if content is None else str(content)


def event(content: Mapping[str, Any], name: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + orjson.dumps(content) + b"\n\n"


def limit(request: Mapping[str, Any], *names: str) -> int | None:
    """The first of these token limits that is given."""
    given = (request.get(name) for name in names)
    return next((number for number in given if isinstance(number, int) and number > 0), None)
