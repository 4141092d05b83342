"""An upstream that costs next to nothing: canned chat completions over keep-alive HTTP/1.1, whole or as a stream.

`GET /counts` says how many requests and stream chunks it has answered; any other GET is answered with `ok`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import httptools
import uvloop

_CHUNK_EVERY_SECONDS = 0.01
_CONTENT_CHUNKS = 50


def _http(content_type: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (content_type, len(body), body)


def _event(delta: dict[str, str], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1, "model": "demo-small"}
    data = b"data: " + json.dumps(head | {"choices": [choice]}).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


_WHOLE = _http(
    b"application/json",
    json.dumps(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1,
            "model": "demo-small",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "It was the best of times. " * 12},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 12, "completion_tokens": 84, "total_tokens": 96},
        }
    ).encode(),
)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_DONE = b"data: [DONE]\n\n"
_PIECES = (
    _event({"role": "assistant", "content": ""}, None),
    *[_event({"content": "word "}, None)] * _CONTENT_CHUNKS,
    _event({}, "stop"),
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(_DONE), _DONE),
)


class Connection(asyncio.Protocol):
    """One connection; `counts` is shared by all."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._url = b""
        self._next: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """Parses; the callbacks below answer."""
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends a stream that is under way."""
        if self._next is not None:
            self._next.cancel()

    def on_message_begin(self) -> None:
        """A new request."""
        self._body = b""

    def on_url(self, url: bytes) -> None:
        """Its target."""
        self._url = url

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        self._body += body

    def on_message_complete(self) -> None:
        """Answers it."""
        if self._parser.get_method() == b"GET":
            content = json.dumps(self._counts).encode() if self._url == b"/counts" else b"ok"
            self._transport.write(_http(b"application/json", content))
            return
        self._counts["requests"] += 1
        if b'"stream":true' in self._body:
            self._transport.write(_STREAM_HEAD)
            self._say(0)
        else:
            self._transport.write(_WHOLE)

    def _say(self, index: int) -> None:
        self._counts["chunks"] += 1
        self._transport.write(_PIECES[index])
        self._next = None
        if index + 1 < len(_PIECES):
            self._next = asyncio.get_running_loop().call_later(_CHUNK_EVERY_SECONDS, self._say, index + 1)


async def serve(port: int) -> None:
    """Serves 127.0.0.1:`port` until it is ended."""
    counts = {"requests": 0, "chunks": 0, "pid": os.getpid()}
    server = await asyncio.get_running_loop().create_server(lambda: Connection(counts), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
