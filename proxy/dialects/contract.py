"""What a dialect can do: requests out, whole answers in, streams in and out; and what a caller has been sent of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import Any, NamedTuple, Protocol

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
    """What one event says, whatever the dialect. Text is that of the first choice. Not to be changed: decoders may give
    the same one for many events."""

    meaning: Meaning
    text: str = ""
    reasoning: str = ""
    tools: tuple[ToolDelta, ...] = ()
    finish: str | None = None
    """OpenAI's word: stop, length, tool_calls, content_filter."""
    usage: Usage | None = None
    model: str | None = None
    error: dict[str, Any] | None = None
    """With ERROR: `message`, `type` and `code`, as far as the provider told them."""
    bare: bool = False
    """Only a usage, no choice: left out for a caller who has not asked for it."""
    told: bool = True
    """Whether these fields say all that a reader would see of the event. What they do not say (a second choice, sound,
    log probabilities) can go through as it came, but be neither continued nor assembled."""


class Sent:
    """What a caller has been sent of one answer, whatever the dialect: added up delta by delta."""

    __slots__ = ("_reasoning", "_room", "_text", "deltas", "finish", "told", "tools")

    def __init__(self, limit_characters: int = 1024 * 1024) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._room = limit_characters
        self.tools: dict[int, ToolDelta] = {}
        """Tool calls by index, each with all of its arguments so far."""
        self.deltas = 0
        """How many events had text, reasoning or a part of a tool call: an estimate of the tokens from below."""
        self.finish: str | None = None
        self.told = True
        """False when something was sent that is not kept here: more than the limit, or a delta that was not `told`."""

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    def add(self, delta: Delta) -> None:
        """Remembers what one delta says."""
        text, reasoning, tools = delta.text, delta.reasoning, delta.tools
        if delta.finish:
            self.finish = delta.finish
        if not delta.told:
            self.told = False
        if not (text or reasoning or tools):
            return
        self.deltas += 1
        self._room -= len(text) + len(reasoning)
        for part in tools:
            self._room -= len(part.arguments) + len(part.name or "") + 1
        if self._room < 0:
            self.told = False
            return
        if text:
            self._text.append(text)
        if reasoning:
            self._reasoning.append(reasoning)
        for part in tools:
            known = self.tools.get(part.index)
            self.tools[part.index] = part if known is None else _joined(known, part)


def _joined(known: ToolDelta, part: ToolDelta) -> ToolDelta:
    return replace(
        known, id=known.id or part.id, name=known.name or part.name, arguments=known.arguments + part.arguments
    )


class Decoder(Protocol):
    """Understands the events of one provider's stream."""

    @property
    def finished(self) -> bool:
        """Whether each choice has had its finish, so that the answer is whole though its end marker is missing."""
        ...

    def read(self, event: bytes) -> Delta:
        """What one event (as cut by `SseParser`) means. Never raises."""
        ...


class Encoder(Protocol):
    """Speaks to the caller in its own dialect, beginning afresh or where forwarded events left off.

    An answer that is continued elsewhere keeps the identity (id, created, role) that it began with.
    """

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

    def assembled(self, sent: Sent) -> bytes | None:
        """The answer that has come to its end, as the body that the caller would have got without `stream`; None if it
        cannot be told from what was kept. Asked for after the last delta, before or after `end`."""
        ...


class NotTranslatableError(ValueError):
    """The request asks for what the provider's dialect cannot say; the text tells what."""


class MalformedError(ValueError):
    """A provider's answer that is none of its dialect."""


class Whole(NamedTuple):
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

    def replayed(self, call: Call, body: bytes) -> bytes | None:
        """A whole answer in the caller's dialect (`Whole.body`) as the stream that would have carried it; None where
        the operation has no stream."""
        ...

    def error(self, status: int, body: bytes) -> bytes:
        """A provider's own refusal (4xx) in the caller's dialect."""
        ...
