"""What a dialect can do: requests out, whole answers in, streams in and out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Any, Protocol

from proxy.call import Call, Usage


class Dialect(StrEnum):
    """What a provider speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Meaning(Enum):
    """Of one event in a provider's stream."""

    NOTHING = auto()
    """A comment, a ping, a role: nothing that a reader would see."""
    CONTENT = auto()
    """Text, reasoning, a part of a tool call, or a finish."""
    DONE = auto()
    """Nothing comes after it."""
    ERROR = auto()
    MALFORMED = auto()


@dataclass(frozen=True, slots=True)
class ToolDelta:
    """A part of one tool call. `id` and `name` come with its first part."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class Delta:
    """What one event says, whatever the dialect. Text is that of the first choice."""

    meaning: Meaning
    text: str = ""
    reasoning: str = ""
    tools: tuple[ToolDelta, ...] = ()
    finish: str | None = None
    """OpenAI's word: stop, length, tool_calls, content_filter."""
    usage: Usage | None = None
    model: str | None = None
    error: dict[str, Any] = field(default_factory=dict)
    bare: bool = False
    """Only a usage, no choice: left out for a caller who has not asked for it."""


class Decoder(Protocol):
    """Understands the events of one provider's stream."""

    @property
    def finished(self) -> bool:
        """Whether each choice has had its finish, so that the answer is whole though [DONE] is missing."""
        ...

    def read(self, event: bytes) -> Delta:
        """What one event (as cut by `SseParser`) means. Never raises."""
        ...


class Encoder(Protocol):
    """Speaks to the caller in its own dialect, beginning afresh or where forwarded events left off."""

    def forwarded(self, event: bytes, delta: Delta) -> None:
        """Learns identity, model and open blocks from an event that was sent as it came."""
        ...

    def encode(self, delta: Delta) -> bytes:
        """The events that say it; empty if nothing needs saying."""
        ...

    def end(self) -> bytes:
        """What ends a whole answer (`data: [DONE]`, `message_stop`), with what is still owed (usage, open blocks)."""
        ...

    def error(self, message: str, code: str) -> bytes:
        """The frame that ends a broken stream; nothing may follow it."""
        ...


class NotTranslatableError(ValueError):
    """The request asks for what the provider's dialect cannot say; the text tells what."""


class MalformedError(ValueError):
    """A provider's answer that is none of its dialect."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole good answer, in the caller's dialect."""

    body: bytes
    usage: Usage | None
    model: str | None
    finish: str | None
    """OpenAI's word, of the first choice."""
    storable: bool
    """Whether it came to its own end, so that the cache may keep it."""


class Translation(Protocol):
    """From one operation's callers to one dialect's providers. Stateless."""

    path: str
    """Of the provider's API, below its base URL: `/chat/completions`, `/messages`."""
    same: bool
    """Whether caller and provider speak alike, so that events and bodies can go through as they came."""

    def request(self, call: Call, model: str, *, stream_usage: bool, max_tokens: int) -> bytes:
        """The body for the provider, which knows the model as `model`. `max_tokens` is for requests that give none to a
        provider that demands one. NotTranslatableError."""
        ...

    def whole(self, call: Call, body: bytes) -> Whole:
        """Judges and translates a body that came with a 2xx. MalformedError."""
        ...

    def decoder(self, call: Call) -> Decoder: ...

    def encoder(self, call: Call) -> Encoder: ...

    def error(self, status: int, body: bytes) -> bytes:
        """A provider's own refusal (4xx) in the caller's dialect."""
        ...
