"""The caller's side of a stream: passes on what the provider says, has it continued elsewhere, and ends it honestly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from proxy.call import Usage
from proxy.dialects.continuation import Agreement
from proxy.dialects.contract import Delta, Encoder, Meaning, Sent, Whole
from proxy.dialects.openai import COMPLETE
from proxy.routing.outcome import CONTENT_CODES
from proxy.streams.contract import Ending, OpenStream, Resume, Settled, Totals
from proxy.streams.patience import Patience
from proxy.upstream import UpstreamError

FINISH_GRACE_SECONDS = 2.0
"""How long after the last finish a usage or an end marker is waited for."""
MARKER_GRACE_SECONDS = 0.25
"""How long the end marker alone is waited for."""
_EOF_GRACE_SECONDS = 0.05
"""How long after the end marker the end of the body is waited for, so that the connection can be kept."""
_CALLER_IS_TOLD = {
    Ending.CUT: "The provider's stream was cut before its end.",
    Ending.STALLED: "The provider's stream stalled before its end.",
    Ending.FAILED: "The provider's stream failed before its end.",
}
_CONTENT, _NOTHING = Meaning.CONTENT, Meaning.NOTHING

Store = Callable[[Whole], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a relay waits."""

    idle_seconds: float
    """Between two reads of a stream."""
    deadline: float
    """For the whole answer, on the event loop's clock."""


@dataclass(frozen=True, slots=True)
class _Stop:
    """Why one provider's stream is over."""

    ending: Ending
    message: str = ""
    """For the operator."""
    told: str | None = None
    """For the caller: the provider's own words."""
    refusal: str | None = None
    """Code of the provider's judgement on the content, which no other provider is asked to revise."""


_COMPLETE = _Stop(Ending.COMPLETE)
_ABANDONED = _Stop(Ending.ABANDONED, "the caller went away")
_DISAGREED = _Stop(Ending.DISAGREED, "the continuation said something else than what had been sent")


class Relay:
    """An asynchronous iterator over the bytes for the caller that must be closed with `aclose`.

    It reads from the provider only when the caller has taken what was there.
    """

    def __init__(
        self,
        stream: OpenStream,
        encoder: Encoder,
        limits: Limits,
        settled: Settled,
        *,
        same: bool,
        bare_usage: bool = False,
        resume: Resume | None = None,
    ) -> None:
        """`same`: the provider speaks the caller's dialect, so that events go as they came; `bare_usage`: the caller
        asked for events with nothing but a usage; without `resume` a broken stream ends in an error frame at once."""
        self._stream = stream
        self._encoder = encoder
        self._limits = limits
        self._settled = settled
        self._raw = same
        self._bare_usage = bare_usage
        self._resume = resume
        self._store: Store | None = None
        self._sent = Sent() if resume is not None else Sent(limit_characters=0)
        self._agreement: Agreement | None = None
        self._usage: Usage | None = None
        self._model: str | None = None
        self._continued = 0
        self._malformed = 0
        self._finish_by: float | None = None
        self._left = False
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._patience = Patience()
        self._chunks = self._relay()

    def keep(self, store: Store) -> None:
        """Has `store` called with the whole answer if it comes to its own end and is not too long to be put together.
        To be asked for before the first chunk is taken."""
        self._store = store
        if self._resume is None:
            self._sent = Sent()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    def __anext__(self) -> Awaitable[bytes]:
        return anext(self._chunks)

    async def aclose(self) -> None:
        """Closes the provider's connection at once if the stream has not ended. May be called before the first chunk,
        and twice."""
        self._stream.answer.close()
        self._leave(_ABANDONED)
        self._settle(_ABANDONED)
        await self._chunks.aclose()

    async def _relay(self) -> AsyncGenerator[bytes]:
        ready: list[bytes] = []
        first: _Stop | None = None
        stop = self._begin(ready)
        while True:
            while stop is None:
                if ready:
                    yield b"".join(ready)
                    ready.clear()
                stop = await self._more(ready)
            self._leave(stop)
            first = first or stop
            if stop is _COMPLETE or stop.refusal is not None or self._resume is None:
                break
            if ready:
                yield b"".join(ready)
                ready.clear()
            resumed = await self._resume(self._sent, stop.ending, stop.message)
            if resumed is None:
                break
            self._stream, self._left = resumed.stream, False
            self._agreement = Agreement(self._sent, resumed.mode)
            self._raw, self._model, self._finish_by = False, None, None
            stop = self._begin(ready)
        stop = _COMPLETE if stop is _COMPLETE else first
        ready.append(self._last_words(stop))
        self._settle(stop)
        yield b"".join(ready)
        await self._drain()

    def _begin(self, ready: list[bytes]) -> _Stop | None:
        """Takes what the present stream has brought when it was opened."""
        stream = self._stream
        for event, delta in stream.first:
            if (stop := self._say(event, delta, ready)) is not None:
                return stop
        if stream.malformed:
            self._sent.told = False
        return self._take(stream.rest, ready)

    async def _more(self, ready: list[bytes]) -> _Stop | None:
        """Takes what the present stream brings next."""
        stream, limits = self._stream, self._limits
        if stream.ended:
            return self._broken(Ending.CUT, "the stream ended before its finish")
        now = self._loop.time()
        limit = now + limits.idle_seconds
        if limit > limits.deadline:
            limit = limits.deadline
        if stream.decoder.finished:
            limit = min(limit, self._patience_after_finish(now))
        try:
            with self._patience.until(limit):
                data = await stream.answer.read_some()
        except TimeoutError:
            return self._broken(Ending.STALLED, "the stream stalled")
        except UpstreamError as error:
            return self._broken(Ending.CUT, str(error))
        if not data:
            stream.ended = True
            return self._take(stream.parser.finish(), ready, last=True)
        try:
            events = stream.parser.feed(data)
        except ValueError as error:
            return self._broken(Ending.FAILED, str(error))
        return self._take(events, ready)

    def _patience_after_finish(self, now: float) -> float:
        """When an answer that has come to its finish is over, whatever is still missing."""
        if self._finish_by is None:
            self._finish_by = now + FINISH_GRACE_SECONDS
        if self._usage is not None:
            self._finish_by = min(self._finish_by, now + MARKER_GRACE_SECONDS)
        return self._finish_by

    def _take(self, events: list[bytes], ready: list[bytes], *, last: bool = False) -> _Stop | None:
        """Appends what the caller shall have of the events to `ready`; says so when the stream is over. What a cut
        leaves of a `last` event is no malformed chunk, for nothing is missing before it."""
        read = self._stream.decoder.read
        raw = self._raw and self._model is not None
        for event in events:
            delta = read(event)
            meaning = delta.meaning
            if raw and meaning is _CONTENT and delta.usage is None:
                # Nearly every event is like this, so it is done here and not in a call of its own.
                self._encoder.forwarded(event, delta)
                self._sent.add(delta)
                ready.append(event)
            elif meaning is _CONTENT or meaning is _NOTHING:
                if (stop := self._say(event, delta, ready)) is not None:
                    return stop
            elif meaning is Meaning.DONE:
                return _COMPLETE if self._agreed() else _DISAGREED
            elif meaning is Meaning.ERROR:
                return _reported(delta, self._stream.redact)
            elif not last:
                self._stream.malformed += 1
                self._sent.told = False
        return None

    def _say(self, event: bytes, delta: Delta, ready: list[bytes]) -> _Stop | None:
        if delta.usage is not None:
            self._usage = delta.usage
        if self._model is None:
            self._model = delta.model
        if self._raw:
            self._encoder.forwarded(event, delta)
            if not delta.bare or self._bare_usage:
                ready.append(event)
        else:
            if self._agreement is not None:
                rest = self._agreement.rest(delta)
                if rest is None:
                    return _DISAGREED
                delta = rest
            if said := self._encoder.encode(delta):
                ready.append(said)
        if delta.meaning is _CONTENT:
            self._sent.add(delta)
        return None

    def _agreed(self) -> bool:
        return self._agreement is None or self._agreement.agreed

    def _broken(self, ending: Ending, message: str) -> _Stop:
        """An answer that had come to its finish is whole, whatever becomes of the line then."""
        return _COMPLETE if self._stream.decoder.finished and self._agreed() else _Stop(ending, message)

    def _leave(self, stop: _Stop) -> None:
        """Done with the present stream."""
        if self._left:
            return
        self._left = True
        stream = self._stream
        if stop is not _COMPLETE:
            stream.answer.close()
        self._malformed += stream.malformed
        if self._agreement is not None and self._agreement.agreed:
            self._continued += 1
        if stream.at_end is not None:
            stream.at_end(stop.ending, stop.message, stream.malformed)

    def _last_words(self, stop: _Stop) -> bytes:
        if stop is not _COMPLETE:
            told = stop.told or _CALLER_IS_TOLD[stop.ending]
            return self._encoder.error(told, stop.refusal or f"stream_{stop.ending}")
        last = self._encoder.end()
        if self._store is not None and (body := self._encoder.assembled(self._sent)) is not None:
            finish = self._sent.finish
            self._store(Whole(body, self._usage, self._model, finish, storable=finish in COMPLETE))
        return last

    def _settle(self, stop: _Stop) -> None:
        if self._over:
            return
        self._over = True
        self._patience.close()
        totals = Totals(
            stop.ending, stop.message, self._usage, self._model, self._sent.finish, self._continued, self._malformed
        )
        self._settled(totals)

    async def _drain(self) -> None:
        """Reads to the end of the body, which gives the connection back to the pool, or closes it."""
        answer = self._stream.answer
        try:
            async with asyncio.timeout(_EOF_GRACE_SECONDS):
                while not self._stream.ended and await answer.read_some():
                    pass
        except (TimeoutError, UpstreamError):
            pass
        finally:
            answer.close()


def _reported(delta: Delta, redact: Callable[[str], str]) -> _Stop:
    """The provider's own error frame: never a clean end, even after a finish."""
    error = delta.error or {}
    message, codes = error.get("message"), (error.get("code"), error.get("type"))
    said = redact(message) if isinstance(message, str) and message else None
    refusal = next((code for code in codes if isinstance(code, str) and code in CONTENT_CODES), None)
    return _Stop(Ending.FAILED, said or "the provider reported an error", said, refusal)
