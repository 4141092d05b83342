"""A local OpenAI-compatible upstream that misbehaves on request, so that faults can be shown without a network."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import orjson
import uvicorn

from proxy.clock import SystemClock

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MODELS = ("demo-small", "demo-large")
_JSON = [(b"content-type", b"application/json")]
_ERRORS: dict[str, tuple[int, str, str, str]] = {
    "401": (401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    "429": (429, "Rate limit reached.", "requests", "rate_limit_exceeded"),
    "500": (500, "The server had an error while processing your request.", "server_error", "internal_error"),
    "503": (503, "The engine is currently overloaded.", "server_error", "overloaded"),
}
MODES = ("ok", "slow", "silent", *_ERRORS, "cut", "stall", "malformed", "no_done")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the next requests are answered."""

    mode: str = "ok"
    delay_seconds: float | None = None
    """`slow`: before the answer (default 2); `silent`: likewise (default for ever).

    `no_done`: how long the connection stays open after the last chunk.
    """
    retry_after: float | None = None
    """Seconds in the `retry-after` header of an error."""
    after_chunks: int = 2
    """How many content chunks `cut`, `stall` and `malformed` let through first."""
    chunks: int | None = None
    """Content chunks of a stream; None is one per word."""
    chunk_delay_seconds: float = 0.0
    for_requests: int | None = None
    """After this many chat completions the behaviour is `ok` again; None is for ever."""


def _seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 86_400


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1_000_000


_KEYS: dict[str, tuple[Callable[[object], bool], str]] = {
    "mode": (lambda value: value in MODES, "one of " + ", ".join(MODES)),
    "delay_seconds": (lambda value: value is None or _seconds(value), "seconds from 0 to 86400, or null"),
    "retry_after": (lambda value: value is None or _seconds(value), "seconds from 0 to 86400, or null"),
    "after_chunks": (_count, "a whole number from 0 to 1000000"),
    "chunks": (lambda value: value is None or (_count(value) and value != 0), "a positive whole number, or null"),
    "chunk_delay_seconds": (_seconds, "seconds from 0 to 86400"),
    "for_requests": (lambda value: value is None or (_count(value) and value != 0), "a positive whole number, or null"),
}


def parse_behaviour(body: bytes) -> Behaviour:
    """The behaviour that a JSON object asks for; ValueError names the key and what it may be."""
    try:
        wanted = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(wanted, dict):
        raise ValueError("expected a JSON object")
    for key, value in wanted.items():
        if key not in _KEYS:
            raise ValueError(f"{key}: unknown key; allowed are {', '.join(_KEYS)}")
        allowed, expected = _KEYS[key]
        if not allowed(value):
            raise ValueError(f"{key}: expected {expected}, not {value!r}")
    if "mode" not in wanted:
        raise ValueError(f"mode: missing; expected {_KEYS['mode'][1]}")
    return Behaviour(**wanted)


@dataclass(slots=True)
class Counters:
    """What reached this upstream since it started."""

    requests: int = 0
    """Chat completions."""
    models_requests: int = 0
    by_status: dict[str, int] = dataclasses.field(default_factory=dict)
    open_streams: int = 0
    client_disconnects: int = 0


@dataclass(slots=True)
class Exchange:
    """One chat completion being answered."""

    receive: Receive
    send: Send
    behaviour: Behaviour
    gone: asyncio.Event
    """Set when the client has closed its connection."""

    async def pause(self, seconds: float | None) -> bool:
        """Waits (None: for ever) unless the client goes away first; says whether it has gone."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.gone.wait(), seconds)
        return self.gone.is_set()


class DemoUpstream:
    """The ASGI application and its present behaviour."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.behaviour = Behaviour()
        self.counters = Counters()
        self._left: int | None = None
        self._clock = SystemClock()
        self._routes: dict[tuple[str, str], Callable[[Receive, Send], Awaitable[None]]] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("GET", "/v1/models"): self._models,
            ("GET", "/_demo/behaviour"): self._show,
            ("POST", "/_demo/behaviour"): self._change,
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            await self._answer(send, 404, _error(f"No route {scope['method']} {scope['path']}.", "not_found_error"))
        else:
            await route(receive, send)

    async def _show(self, _receive: Receive, send: Send) -> None:
        shown = dataclasses.asdict(self.behaviour) | {"name": self.name, "requests_left": self._left}
        await _respond(send, 200, shown | dataclasses.asdict(self.counters))

    async def _change(self, receive: Receive, send: Send) -> None:
        try:
            self.behaviour = parse_behaviour(await _read(receive))
        except ValueError as error:
            await _respond(send, 400, _error(str(error), "invalid_request_error"))
            return
        self._left = self.behaviour.for_requests
        await self._show(receive, send)

    async def _models(self, receive: Receive, send: Send) -> None:
        self.counters.models_requests += 1
        await _read(receive)
        async with self._exchange(receive, send, self.behaviour) as exchange:
            if not await self._misbehave_first(exchange):
                listed = [{"id": model, "object": "model", "created": 0, "owned_by": self.name} for model in MODELS]
                await self._answer(send, 200, {"object": "list", "data": listed})

    async def _chat(self, receive: Receive, send: Send) -> None:
        self.counters.requests += 1
        behaviour = self._take()
        raw = await _read(receive)
        try:
            request = orjson.loads(raw)
            prompt = _last_user_message(request["messages"])
        except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
            await self._answer(send, 400, _error("messages: expected at least one message.", "invalid_request_error"))
            return
        async with self._exchange(receive, send, behaviour) as exchange:
            if await self._misbehave_first(exchange):
                return
            pieces = self._pieces(prompt, behaviour.chunks)
            words = sum(len(str(message).split()) for message in request["messages"])
            usage = {"prompt_tokens": words, "completion_tokens": len(pieces), "total_tokens": words + len(pieces)}
            head = {
                "id": "chatcmpl-" + hashlib.blake2b(raw, digest_size=12).hexdigest(),
                "created": int(self._clock.wall()),
                "model": str(request.get("model", MODELS[0])),
                "system_fingerprint": self.name,
            }
            if request.get("stream") is True:
                options = request.get("stream_options")
                wants_usage = isinstance(options, dict) and options.get("include_usage") is True
                await self._stream(exchange, head, pieces, usage if wants_usage else None)
            else:
                await self._whole(exchange, head, "".join(pieces), usage)

    def _take(self) -> Behaviour:
        """The behaviour for one chat completion, counting `for_requests` down."""
        taken = self.behaviour
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.behaviour, self._left = Behaviour(), None
        return taken

    def _pieces(self, prompt: str, count: int | None) -> list[str]:
        words = [word + " " for word in f"{self.name} heard: {prompt}".split()]
        return words if count is None else [words[index % len(words)] for index in range(count)]

    @contextlib.asynccontextmanager
    async def _exchange(self, receive: Receive, send: Send, behaviour: Behaviour) -> AsyncIterator[Exchange]:
        gone = asyncio.Event()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        watcher = asyncio.create_task(watch())
        try:
            yield Exchange(receive, send, behaviour, gone)
        finally:
            watcher.cancel()

    async def _misbehave_first(self, exchange: Exchange) -> bool:
        """Plays what happens before an answer; True if there is no answer to give any more."""
        behaviour = exchange.behaviour
        if behaviour.mode in _ERRORS:
            status, message, kind, code = _ERRORS[behaviour.mode]
            extra = [] if behaviour.retry_after is None else [(b"retry-after", b"%g" % behaviour.retry_after)]
            await self._answer(exchange.send, status, _error(message, kind, code), extra)
            return True
        slow = 2.0 if behaviour.delay_seconds is None else behaviour.delay_seconds
        waits = {"silent": behaviour.delay_seconds, "slow": slow}
        if behaviour.mode in waits and await exchange.pause(waits[behaviour.mode]):
            self.counters.client_disconnects += 1
            return True
        return False

    async def _whole(self, exchange: Exchange, head: Message, text: str, usage: Message) -> None:
        message = {"role": "assistant", "content": text.rstrip()}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        body = orjson.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        match exchange.behaviour.mode:
            case "malformed":
                await self._answer(exchange.send, 200, b'{"id": "chatcmpl-broken", "choices": [{"mess')
            case "cut" | "stall" as mode:
                self._count(200)
                headers = [*_JSON, (b"content-length", b"%d" % len(body))]
                await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
                await exchange.send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
                if mode == "stall" and await exchange.pause(None):
                    self.counters.client_disconnects += 1
            case _:
                await self._answer(exchange.send, 200, body)

    async def _stream(self, exchange: Exchange, head: Message, pieces: list[str], usage: Message | None) -> None:
        self._count(200)
        self.counters.open_streams += 1
        try:
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
            await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
            ended = await self._events(exchange, head, pieces, usage)
            if exchange.gone.is_set():
                self.counters.client_disconnects += 1
            elif ended:
                await exchange.send({"type": "http.response.body", "body": b""})
        finally:
            self.counters.open_streams -= 1

    async def _events(self, exchange: Exchange, head: Message, pieces: list[str], usage: Message | None) -> bool:
        """Sends the events; False if the response must be left unfinished, which makes the server cut the line."""
        behaviour = exchange.behaviour

        def event(delta: Message, finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            tail = {} if usage is None else {"usage": None}
            chunk = {**head, "object": "chat.completion.chunk", "choices": [choice], **tail}
            return b"data: " + orjson.dumps(chunk) + b"\n\n"

        async def say(data: bytes) -> None:
            await exchange.send({"type": "http.response.body", "body": data, "more_body": True})

        await say(event({"role": "assistant", "content": ""}))
        for index, piece in enumerate([*pieces, ""]):
            if index == behaviour.after_chunks:
                if behaviour.mode == "cut":
                    return False
                if behaviour.mode == "stall":
                    await exchange.pause(None)
                elif behaviour.mode == "malformed":
                    await say(b'data: {"id": "chatcmpl-broken", "choices": [{"del\n\n')
            if await exchange.pause(behaviour.chunk_delay_seconds):
                return False
            await say(event({"content": piece}) if index < len(pieces) else event({}, "stop"))
        if usage is not None:
            chunk = {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
            await say(b"data: " + orjson.dumps(chunk) + b"\n\n")
        if behaviour.mode == "no_done":
            return not (behaviour.delay_seconds and await exchange.pause(behaviour.delay_seconds))
        await say(b"data: [DONE]\n\n")
        return True

    async def _answer(
        self, send: Send, status: int, body: Message | bytes, extra: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        self._count(status)
        await _respond(send, status, body, extra)

    def _count(self, status: int) -> None:
        self.counters.by_status[str(status)] = self.counters.by_status.get(str(status), 0) + 1


async def _respond(
    send: Send, status: int, body: Message | bytes, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    headers = [*_JSON, (b"content-length", b"%d" % len(data)), *(extra or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _error(message: str, kind: str, code: str | None = None) -> Message:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _last_user_message(messages: list[Message]) -> str:
    """The text of the newest message of role `user`, or of the newest at all; raises if there is none."""
    newest = next((message for message in reversed(messages) if message["role"] == "user"), messages[-1])
    content = newest.get("content")
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


def run(name: str, port: int) -> None:
    """Serves 127.0.0.1:`port` until SIGTERM or SIGINT; 0 takes a free port. Prints the port as its first line.

    OSError if the port is taken.
    """

    def leave(*_: object) -> NoReturn:
        sys.exit(0)

    # uvicorn raises the signal that ended it again once it has shut down; this is who hears it then.
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(
        cast("Any", DemoUpstream(name)),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])
