"""Opens a provider's stream: reads until the first content, which is what makes it worth a 200."""

from __future__ import annotations

from proxy.dialects.contract import Decoder, Delta, Meaning
from proxy.dialects.sse import MAX_EVENT_BYTES, SseParser
from proxy.routing.outcome import Failure, Fault
from proxy.streams.contract import OpenStream
from proxy.upstream import Answer


async def open_stream(answer: Answer, decoder: Decoder) -> OpenStream | Failure:
    """The stream, up to and with its first content. Time limits are the caller's, and so is closing after a failure.

    UpstreamError if the body is cut before.
    """
    stream = OpenStream(answer, SseParser(), decoder, [], [])
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
            delta = decoder.read(event)
            match delta.meaning:
                case Meaning.CONTENT:
                    stream.first.append((event, delta))
                    stream.rest = events[position:]
                    return stream
                case Meaning.NOTHING:
                    stream.first.append((event, delta))
                case Meaning.MALFORMED:
                    stream.malformed += 1
                case Meaning.ERROR:
                    return _refused(delta)
                case Meaning.DONE:
                    return Failure(Fault.MALFORMED, "the stream ended without content")
        if size > MAX_EVENT_BYTES:
            return Failure(Fault.MALFORMED, f"no content in {size} bytes")
    return Failure(Fault.MALFORMED, "the stream ended without content")


def _refused(delta: Delta) -> Failure:
    said = (delta.error or {}).get("message")
    return Failure(Fault.OUTAGE, said if isinstance(said, str) else "the stream began in error")
