"""A provider on a real socket that answers each request by the next script: what to send, and how to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

Step = bytes | float | Literal["cut", "hold", "reset"]
"""Raw bytes to send, seconds to wait, an orderly end of the connection, a wait until the client has gone, a reset."""
Script = Sequence[Step]

SILENT: Script = ("hold",)
RESET: Script = ("reset",)
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


def http(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Script:
    """A whole answer with a JSON body."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    given = {"content-type": "application/json", "content-length": str(len(body))} | dict(headers or {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return (f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode() + body,)


def refusal(status: int, message: str = "no", headers: Mapping[str, str] | None = None, **error: Any) -> Script:
    """An error in OpenAI's envelope."""
    return http(
        status, {"error": {"message": message, "type": "scripted", "param": None, "code": None} | error}, headers
    )


def whole(
    text: str, finish: str = "stop", model: str = "served-model", headers: Mapping[str, str] | None = None
) -> Script:
    """A good chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
    return http(200, answer | {"usage": USAGE}, headers)


_STREAM = b"HTTP/1.1 200 Scripted\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def event(delta: dict[str, Any] | None, finish: str | None = None, model: str = "served-model", **more: Any) -> bytes:
    """One chunk of a chat completion stream."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": choices}
    return b"data: " + orjson.dumps(chunk | more) + b"\n\n"


def begun(*pieces: str, model: str = "served-model") -> tuple[Step, ...]:
    """The beginning of a stream, not its end."""
    return (_STREAM, event({"role": "assistant"}, model=model), *(event({"content": p}, model=model) for p in pieces))


def streamed(*pieces: str, finish: str = "stop", model: str = "served-model") -> Script:
    """A good stream to its end, with its usage."""
    end = (event({}, finish, model=model), event(None, model=model, usage=USAGE), b"data: [DONE]\n\n", "cut")
    return (*begun(*pieces, model=model), *end)  # type: ignore[return-value]


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    fields: dict[str, Any]
    at: float
    """On the event loop's clock."""

    @property
    def key(self) -> str:
        given = self.headers.get("authorization") or self.headers.get("x-api-key") or self.headers.get("api-key") or ""
        return given.removeprefix("Bearer ")


@dataclass
class ScriptedUpstream:
    """Posts take the script of their key, else the next of `scripts`, else `usual`; a listing takes `listing`."""

    name: str
    scripts: list[Script] = field(default_factory=list)
    usual: Script | None = None
    by_key: dict[str, Script] = field(default_factory=dict)
    listing: Script = field(default_factory=lambda: http(200, {"object": "list", "data": []}))
    seen: list[Seen] = field(default_factory=list)
    listings: list[Seen] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client has closed its connection in a "hold"."""
    answering: int = 0
    most_at_once: int = 0
    port: int = 0

    async def start(self) -> None:
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuses connections from now on, and breaks those that are open."""
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.rstrip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        fields = orjson.loads(body) if body else {}
        request = Seen(method, path, headers, fields, asyncio.get_running_loop().time())
        (self.seen if method == "POST" else self.listings).append(request)
        self.answering += 1
        self.most_at_once = max(self.most_at_once, self.answering)
        try:
            return await self._play(self._script_for(request), reader, writer)
        finally:
            self.answering -= 1

    def _script_for(self, request: Seen) -> Script:
        script = self.by_key.get(request.key)
        if script is not None:
            return script
        if request.method == "GET":
            return self.listing
        if self.scripts:
            return self.scripts.pop(0)
        if self.usual is not None:
            return self.usual
        said = f"{self.name} answers"
        return streamed(*(word + " " for word in said.split())) if request.fields.get("stream") else whole(said)

    async def _play(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        for step in script:
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                case "cut":
                    return False
                case "reset":
                    writer.transport.abort()
                    return False
                case "hold":
                    await reader.read(1)
                    self.gone.set()
                    return False
                case seconds:
                    await asyncio.sleep(float(seconds))
        return True
