"""What the attempts and the relay of a stream give each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from proxy.call import Usage
from proxy.dialects.continuation import Mode
from proxy.dialects.contract import Decoder, Delta, Sent
from proxy.dialects.sse import SseParser
from proxy.routing.outcome import Fault
from proxy.upstream import Answer


class Ending(StrEnum):
    """How a stream that had begun came to its end."""

    COMPLETE = "complete"
    CUT = "cut"
    STALLED = "stalled"
    FAILED = "failed"
    """The provider sent an error frame, or something that is no stream of events."""
    ABANDONED = "abandoned"
    """The caller went away."""
    DISAGREED = "disagreed"
    """A continuation that said something else than what had been sent; no fault of its provider."""


FAULT_OF_ENDING = {Ending.CUT: Fault.NETWORK, Ending.STALLED: Fault.TIMEOUT, Ending.FAILED: Fault.OUTAGE}
"""Endings without an entry say nothing against the provider."""

AtEnd = Callable[[Ending, str, int], None]
"""(ending, message for the operator, malformed chunks left out), once for each stream of a provider."""


@dataclass(slots=True)
class OpenStream:
    """A provider's stream whose first content has come. Whoever holds it gives it to a `Relay` or closes `answer`."""

    answer: Answer
    parser: SseParser
    decoder: Decoder
    first: list[tuple[bytes, Delta]]
    """Events up to and with the first content, and what they mean."""
    rest: list[bytes]
    """Events that came along with it and have not been read."""
    ended: bool = False
    """Whether the body has ended already."""
    malformed: int = 0
    at_end: AtEnd | None = None
    """Set by who opened it."""
    redact: Callable[[str], str] = str
    """Takes our secrets out of the provider's words; set by who opened it."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """Another stream for the rest of an answer. Its `at_end` is called as any other's."""

    stream: OpenStream
    mode: Mode


Resume = Callable[[Sent, Ending, str], Awaitable[Resumed | None]]
"""Asked with (what the caller has of it, ending, message) when a stream was cut, stalled or failed before its finish,
and again when what it gave failed too (DISAGREED among the endings); None when nothing more can be tried.

It keeps count, chooses among `continuation.modes(call, sent)`, watches the total deadline, and does not raise. It is
cancelled when the caller goes away."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What a whole answer came to, over all of its streams."""

    ending: Ending
    message: str
    """For the operator; empty after COMPLETE."""
    usage: Usage | None
    """Of the last stream: the answering provider's own count."""
    model: str | None
    """As the last stream named it."""
    finish: str | None
    continued: int
    """How many further streams had a part in what the caller got."""
    malformed: int


Settled = Callable[[Totals], None]
"""Called once, when the whole is over, whichever way, before its last frame is handed to the caller."""
