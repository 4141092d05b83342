"""Server-sent events in, server-sent events out: parsing, what a chunk means, and how a stream may end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Any

import orjson

from proxy.routing.outcome import Failure, Fault
from proxy.upstream import Answer, UpstreamError

MAX_EVENT_BYTES = 4 * 1024 * 1024
DONE = b"data: [DONE]\n\n"
_EVENT_END = re.compile(rb"\n\r?\n")
_FINISH_GRACE_SECONDS = 2.0
"""How long after the last finish_reason a usage chunk or [DONE] is waited for."""
_EOF_GRACE_SECONDS = 0.05
"""How long after [DONE] the end of the body is waited for, so that the connection can be kept."""


class SseParser:
    """Cuts a byte stream into whole events, whichever way the bytes were split. Lines end in LF or CRLF."""

    __slots__ = ("_buffer", "_searched")

    def __init__(self) -> None:
        self._buffer = b""
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The events completed by `data`, as they came. ValueError if one is longer than MAX_EVENT_BYTES."""
        buffer = self._buffer + data if self._buffer else data
        events: list[bytes] = []
        begin, search = 0, self._searched
        while match := _EVENT_END.search(buffer, search):
            events.append(buffer[begin : match.end()])
            begin = search = match.end()
        self._buffer = buffer[begin:]
        self._searched = max(0, len(self._buffer) - 2)
        if len(self._buffer) > MAX_EVENT_BYTES or any(len(event) > MAX_EVENT_BYTES for event in events):
            raise ValueError(f"an event is longer than {MAX_EVENT_BYTES} bytes")
        return events

    def finish(self) -> list[bytes]:
        """What is left at the end of the stream: an event whose blank line never came, or nothing."""
        rest, self._buffer, self._searched = self._buffer.strip(b"\r\n"), b"", 0
        return [rest + b"\n\n"] if rest else []


def data_of(event: bytes) -> bytes | None:
    """The data of one event, or None for a comment or an event without any (HTML Living Standard §9.2.6)."""
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:] for line in event.splitlines() if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None


class Meaning(Enum):
    """Of one event in a stream of chat completion chunks."""

    NOTHING = auto()
    """A comment, a role, a usage: nothing that a reader would see."""
    CONTENT = auto()
    DONE = auto()
    ERROR = auto()
    MALFORMED = auto()


class ChunkReader:
    """Understands the events of one stream, and knows whether all choices have come to their end."""

    __slots__ = ("_ended", "_wanted", "error")

    def __init__(self, choices: int) -> None:
        self._wanted = max(1, choices)
        self._ended: set[int] = set()
        self.error: dict[str, Any] = {}

    @property
    def finished(self) -> bool:
        """Whether each choice has had its finish_reason."""
        return len(self._ended) >= self._wanted

    def read(self, event: bytes) -> Meaning:
        """What `event` means; remembers finish reasons and the provider's error."""
        data = data_of(event)
        if data is None:
            return Meaning.NOTHING
        if data.strip() == b"[DONE]":
            return Meaning.DONE
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return Meaning.MALFORMED
        if not isinstance(chunk, dict):
            return Meaning.MALFORMED
        if chunk.get("error"):
            self.error = chunk["error"] if isinstance(chunk["error"], dict) else {"message": str(chunk["error"])}
            return Meaning.ERROR
        choices = chunk.get("choices", [])
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            return Meaning.MALFORMED
        seen = Meaning.NOTHING
        for choice in choices:
            delta = choice.get("delta") or {}
            if choice.get("finish_reason"):
                self._ended.add(choice.get("index", 0))
                seen = Meaning.CONTENT
            elif isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role"):
                seen = Meaning.CONTENT
        return seen


class Ending(StrEnum):
    """How a stream that had begun came to its end."""

    COMPLETE = "complete"
    CUT = "cut"
    STALLED = "stalled"
    FAILED = "failed"
    """The provider sent an error frame, or something that is no stream of events."""
    ABANDONED = "abandoned"
    """The caller went away."""


FAULT_OF_ENDING = {Ending.CUT: Fault.NETWORK, Ending.STALLED: Fault.TIMEOUT, Ending.FAILED: Fault.OUTAGE}


@dataclass(slots=True)
class OpenStream:
    """A stream whose first content has come."""

    answer: Answer
    parser: SseParser
    reader: ChunkReader
    first: list[bytes]
    """Events up to and with the first content."""
    rest: list[bytes]
    """Events that came along with it and have not been read."""
    ended: bool
    """Whether the body has ended already."""
    malformed: int


async def open_stream(answer: Answer, choices: int) -> OpenStream | Failure:
    """Reads until the first content, which is what makes a stream worth a 200. Time limits are the caller's.

    UpstreamError if the body is cut before.
    """
    stream = OpenStream(answer, SseParser(), ChunkReader(choices), [], [], ended=False, malformed=0)
    size = 0
    while not stream.ended:
        data = await answer.read_some()
        stream.ended = not data
        size += len(data)
        try:
            events = stream.parser.feed(data) if data else stream.parser.finish()
        except ValueError as error:
            return Failure(Fault.MALFORMED, str(error))
        for position, event in enumerate(events, start=1):
            match stream.reader.read(event):
                case Meaning.CONTENT:
                    stream.first.append(event)
                    stream.rest = events[position:]
                    return stream
                case Meaning.NOTHING:
                    stream.first.append(event)
                case Meaning.MALFORMED:
                    stream.malformed += 1
                case Meaning.ERROR:
                    return Failure(Fault.OUTAGE, str(stream.reader.error.get("message", "the stream began in error")))
                case Meaning.DONE:
                    return Failure(Fault.MALFORMED, "the stream ended without content")
        if size > MAX_EVENT_BYTES:
            return Failure(Fault.MALFORMED, f"no content in {size} bytes")
    return Failure(Fault.MALFORMED, "the stream ended without content")


EndCallback = Callable[[Ending, str, int], None]
"""Called once with the ending, a message for the operator, and the number of malformed chunks left out."""


class Relay:
    """The caller's view of an open stream: an asynchronous iterator over bytes that must be closed with `aclose`."""

    def __init__(self, stream: OpenStream, idle_seconds: float, deadline: float, at_end: EndCallback) -> None:
        """`deadline` is on the event loop's clock."""
        self._stream = stream
        self._idle_seconds = idle_seconds
        self._deadline = deadline
        self._at_end = at_end
        self._chunks = self._relay()
        self._over = False
        self._finish_by: float | None = None
        self._last_frame = b""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Closes the provider's connection at once if the stream has not ended. May be called before the first chunk,
        and twice."""
        self._stream.answer.close()
        self._end(Ending.ABANDONED, "the caller went away")
        await self._chunks.aclose()

    def _end(self, ending: Ending, message: str) -> None:
        if not self._over:
            self._over = True
            self._at_end(ending, message, self._stream.malformed)

    async def _relay(self) -> AsyncGenerator[bytes]:
        stream = self._stream
        ready, events = stream.first, stream.rest
        while True:
            stop = self._take(events, ready)
            if stop is Meaning.DONE:
                self._end(Ending.COMPLETE, "")
                yield b"".join(ready)
                await self._settle()
                return
            if ready:
                yield b"".join(ready)
            if stop is Meaning.ERROR:
                break
            ready = []
            try:
                events = await self._more()
            except TimeoutError:
                self._fail(Ending.STALLED, "the provider's stream stalled")
                break
            except UpstreamError as error:
                self._fail(Ending.CUT, str(error))
                break
            except ValueError as error:
                self._fail(Ending.FAILED, str(error))
                break
        stream.answer.close()
        yield self._last_frame

    def _take(self, events: list[bytes], ready: list[bytes]) -> Meaning | None:
        """Appends what may be sent to `ready`; DONE or ERROR if an event says that nothing comes after it."""
        for event in events:
            meaning = self._stream.reader.read(event)
            match meaning:
                case Meaning.MALFORMED:
                    self._stream.malformed += 1
                case Meaning.ERROR:
                    said = self._stream.reader.error.get("message", "the provider reported an error")
                    self._fail(Ending.FAILED, str(said), force=True)
                    return meaning
                case Meaning.DONE:
                    ready.append(DONE)
                    return meaning
                case _:
                    ready.append(event)
        return None

    def _fail(self, ending: Ending, message: str, *, force: bool = False) -> None:
        """Chooses the last frame: an answer that had come to its finish is whole, whatever happens to the line then."""
        if self._stream.reader.finished and not force:
            self._last_frame = DONE
            self._end(Ending.COMPLETE, "")
        else:
            self._last_frame = error_frame(message, f"stream_{ending}")
            self._end(ending, message)

    async def _more(self) -> list[bytes]:
        """The next events. TimeoutError when nothing comes, ValueError when an event is too long, UpstreamError."""
        if self._stream.ended:
            raise UpstreamError(Fault.NETWORK, "the stream ended before its finish")
        now = asyncio.get_running_loop().time()
        if self._stream.reader.finished and self._finish_by is None:
            self._finish_by = now + _FINISH_GRACE_SECONDS
        limits = (now + self._idle_seconds, self._deadline, self._finish_by or self._deadline)
        async with asyncio.timeout_at(min(limits)):
            data = await self._stream.answer.read_some()
        if data:
            return self._stream.parser.feed(data)
        self._stream.ended = True
        return self._stream.parser.finish()

    async def _settle(self) -> None:
        """Reads to the end of the body, which gives the connection back to the pool, or closes it."""
        try:
            async with asyncio.timeout(_EOF_GRACE_SECONDS):
                while await self._stream.answer.read_some():
                    pass
        except (TimeoutError, UpstreamError):
            self._stream.answer.close()


def error_frame(message: str, code: str) -> bytes:
    """The event that ends a broken stream in OpenAI's envelope; nothing follows it, no [DONE] either."""
    error = {"message": message, "type": "upstream_error", "param": None, "code": code}
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n"


def stream_of(answer: dict[str, Any], *, usage: bool) -> bytes:
    """A whole chat completion as the stream that would have carried it; `usage` as in `stream_options`."""
    head = {name: value for name, value in answer.items() if name not in ("choices", "usage", "object")}
    head["object"] = "chat.completion.chunk"
    events: list[dict[str, Any]] = []
    for choice in answer["choices"]:
        message, index = dict(choice.get("message") or {}), choice.get("index", 0)
        role = {"role": message.pop("role", "assistant")}
        if message.get("tool_calls"):
            message["tool_calls"] = [{"index": at} | call for at, call in enumerate(message["tool_calls"])]
        rest = {name: value for name, value in choice.items() if name not in ("message", "finish_reason", "index")}
        for delta, finish in ((role, None), (message, None), ({}, choice.get("finish_reason"))):
            events.append({"choices": [{"index": index, "delta": delta, "finish_reason": finish}]})
        events[-2]["choices"][0] |= rest
    if usage:
        events.append({"choices": [], "usage": answer.get("usage")})
    return b"".join(b"data: " + orjson.dumps(head | event) + b"\n\n" for event in events) + DONE
