"""The demo upstream: an ASGI application, its present behaviour, and what has reached it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.clock import SystemClock
from proxy.demo import openai
from proxy.demo.anthropic import Messages
from proxy.demo.behaviour import LINE_ENDS, Behaviour, parse_behaviour
from proxy.demo.shape import Head, Refusal, Shape, Stream, invalid
from proxy.demo.speech import Question, answer_to
from proxy.demo.wire import Exchange, Headers, Message, Receive, Send, exchange_of, read, respond

MODELS = ("demo-small", "demo-large")
_MAX_KEYS = 100
_REFUSALS: Mapping[str, Refusal] = {
    "401": Refusal(
        401, "Incorrect API key provided.", ("invalid_request_error", "invalid_api_key"), (401, "authentication_error")
    ),
    "402": Refusal(
        402, "The account's balance is exhausted.", ("insufficient_quota", "insufficient_quota"), (402, "billing_error")
    ),
    "403": Refusal(
        403, "The key may not use this model.", ("invalid_request_error", "forbidden"), (403, "permission_error")
    ),
    "404": Refusal(
        404, "The model does not exist.", ("invalid_request_error", "model_not_found"), (404, "not_found_error")
    ),
    "429": Refusal(429, "Rate limit reached.", ("requests", "rate_limit_exceeded"), (429, "rate_limit_error")),
    "500": Refusal(
        500, "The server had an error while processing your request.", ("server_error", "internal_error"),
        (500, "api_error"),
    ),
    "503": Refusal(
        503, "The engine is currently overloaded.", ("server_error", "overloaded"), (529, "overloaded_error")
    ),
}  # fmt: skip
_FILTERED = invalid("The response was filtered by the content policy.", "content_filter")
_NO_PREFILL = invalid("This model does not support assistant message prefill.", "prefill_unsupported")
_BROKEN_EVENT = b'data: {"id": "chatcmpl-broken", "choices": [{"del\n\n'
_BROKEN_BODY = b'{"id": "chatcmpl-broken", "choices": [{"mess'


@dataclass(slots=True)
class Counters:
    """What reached this upstream since it started."""

    requests: int = 0
    """Requests for an answer."""
    models_requests: int = 0
    by_status: dict[str, int] = dataclasses.field(default_factory=dict)
    by_path: dict[str, int] = dataclasses.field(default_factory=dict)
    by_key: dict[str, int] = dataclasses.field(default_factory=dict)
    """Test keys: nobody sends a real one here."""
    open_streams: int = 0
    client_disconnects: int = 0


class DemoUpstream:
    """The ASGI application and its present behaviour."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.behaviour = Behaviour()
        self.counters = Counters()
        self._left: int | None = None
        self._last: dict[str, Any] = {}
        self._clock = SystemClock()
        self._shapes: dict[str, Shape] = {
            "/v1/chat/completions": openai.Chat(),
            "/v1/completions": openai.Text(),
            "/v1/messages": Messages(),
        }
        self._routes: dict[tuple[str, str], Callable[[Message, Receive, Send], Awaitable[None]]] = {
            ("POST", "/v1/embeddings"): self._embeddings,
            ("GET", "/v1/models"): self._models,
            ("GET", "/_demo/behaviour"): self._show,
            ("POST", "/_demo/behaviour"): self._change,
            ("GET", "/_demo/last"): self._show_last,
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        shape = self._shapes.get(path) if method == "POST" else None
        route = self._routes.get((method, path))
        if shape is not None:
            await self._asked(shape, scope, receive, send)
        elif route is not None:
            await route(scope, receive, send)
        else:
            refusal = Refusal(404, f"No route {method} {path}.", ("not_found_error", None), (404, "not_found_error"))
            await self._refuse(send, self._shapes["/v1/chat/completions"], refusal)

    async def _show(self, _scope: Message, _receive: Receive, send: Send) -> None:
        shown = dataclasses.asdict(self.behaviour) | {"name": self.name, "requests_left": self._left}
        await respond(send, 200, shown | dataclasses.asdict(self.counters))

    async def _show_last(self, _scope: Message, _receive: Receive, send: Send) -> None:
        """The newest request for an answer: `path`, `headers`, `body`."""
        await respond(send, 200, self._last)

    async def _change(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            self.behaviour = parse_behaviour(await read(receive))
        except ValueError as error:
            await respond(send, 400, openai.Chat().refuse(invalid(str(error)))[1])
            return
        self._left = self.behaviour.for_requests
        await self._show(scope, receive, send)

    async def _models(self, scope: Message, receive: Receive, send: Send) -> None:
        self.counters.models_requests += 1
        behaviour = self._for_key(self.behaviour, _headers(scope))
        await read(receive)
        async with exchange_of(receive, send) as exchange:
            if not await self._misbehave_first(exchange, self._shapes["/v1/chat/completions"], behaviour, None):
                listed = [{"id": model, "object": "model", "created": 0, "owned_by": self.name} for model in MODELS]
                await self._answer(send, 200, {"object": "list", "data": listed})

    async def _embeddings(self, scope: Message, receive: Receive, send: Send) -> None:
        shape = self._shapes["/v1/chat/completions"]
        behaviour, raw = await self._taken(scope, receive)
        try:
            answer = openai.embeddings(orjson.loads(raw))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            await self._refuse(send, shape, invalid("input: expected a text or an array of texts."))
            return
        async with exchange_of(receive, send) as exchange:
            if not await self._misbehave_first(exchange, shape, behaviour, None):
                await self._whole(exchange, behaviour, orjson.dumps(answer))

    async def _asked(self, shape: Shape, scope: Message, receive: Receive, send: Send) -> None:
        behaviour, raw = await self._taken(scope, receive)
        try:
            request = orjson.loads(raw)
            question = shape.question(request)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            said = str(error) if type(error) is ValueError else "messages: expected at least one message."
            await self._refuse(send, shape, invalid(said))
            return
        async with exchange_of(receive, send) as exchange:
            if await self._misbehave_first(exchange, shape, behaviour, question):
                return
            answer = answer_to(question, self.name, behaviour)
            head = Head(
                hashlib.blake2b(raw, digest_size=12).hexdigest(),
                int(self._clock.wall()),
                question.model or MODELS[0],
                self.name,
            )
            if question.stream:
                stream = shape.stream(head, question, answer, request)
                pieces = [stream.part(part) for part in answer.parts]
                await self._stream(exchange, behaviour, shape, stream, pieces)
            else:
                await self._whole(exchange, behaviour, orjson.dumps(shape.whole(head, question, answer)))

    async def _taken(self, scope: Message, receive: Receive) -> tuple[Behaviour, bytes]:
        """Counts a request for an answer, and `for_requests` down; its behaviour and its body."""
        headers = _headers(scope)
        key, path = _key(headers), scope["path"]
        counters = self.counters
        counters.requests += 1
        counters.by_path[path] = counters.by_path.get(path, 0) + 1
        if key and (key in counters.by_key or len(counters.by_key) < _MAX_KEYS):
            counters.by_key[key] = counters.by_key.get(key, 0) + 1
        taken = self._for_key(self.behaviour, headers)
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.behaviour, self._left = Behaviour(), None
        raw = await read(receive)
        self._last = {"path": path, "headers": headers, "body": raw.decode("utf-8", "replace")}
        return taken, raw

    def _for_key(self, behaviour: Behaviour, headers: Mapping[str, str]) -> Behaviour:
        mode = behaviour.keys.get(_key(headers))
        return behaviour if mode is None else dataclasses.replace(behaviour, mode=mode)

    async def _misbehave_first(
        self, exchange: Exchange, shape: Shape, behaviour: Behaviour, question: Question | None
    ) -> bool:
        """Plays what happens before an answer; True if there is no answer to give any more."""
        refusal = _refusal(behaviour, question)
        if refusal is not None:
            extra = [] if behaviour.retry_after is None else [(b"retry-after", b"%g" % behaviour.retry_after)]
            await self._refuse(exchange.send, shape, refusal, extra)
            return True
        if behaviour.mode == "reset":
            exchange.reset()
            return True
        slow = 2.0 if behaviour.delay_seconds is None else behaviour.delay_seconds
        waits = {"silent": behaviour.delay_seconds, "slow": slow}
        if behaviour.mode == "late" and (question is None or not question.stream):
            waits["late"] = 20.0 if behaviour.delay_seconds is None else behaviour.delay_seconds
        if behaviour.mode in waits and await exchange.pause(waits[behaviour.mode]):
            self.counters.client_disconnects += 1
            return True
        return False

    async def _whole(self, exchange: Exchange, behaviour: Behaviour, body: bytes) -> None:
        match behaviour.mode:
            case "malformed":
                await self._answer(exchange.send, 200, _BROKEN_BODY)
            case "cut" | "stall" as mode:
                self._count(200)
                await exchange.half(body)
                if mode == "stall" and await exchange.pause(None):
                    self.counters.client_disconnects += 1
            case _:
                await self._answer(exchange.send, 200, body)

    async def _stream(
        self, exchange: Exchange, behaviour: Behaviour, shape: Shape, stream: Stream, pieces: list[bytes]
    ) -> None:
        self._count(200)
        self.counters.open_streams += 1
        try:
            await exchange.begin_events()
            ended = await self._events(exchange, behaviour, shape, stream, pieces)
            if exchange.gone.is_set():
                self.counters.client_disconnects += 1
            elif ended:
                await exchange.end()
        finally:
            self.counters.open_streams -= 1

    async def _events(
        self, exchange: Exchange, behaviour: Behaviour, shape: Shape, stream: Stream, pieces: list[bytes]
    ) -> bool:
        """Sends the events; False if the response must be left unfinished, which makes the server cut the line."""
        ends, said = LINE_ENDS[behaviour.line_ends], 0

        async def say(data: bytes) -> None:
            nonlocal said
            if ends != (b"\n",):
                lines = data.split(b"\n")
                data = b"".join(line + ends[(said + at) % len(ends)] for at, line in enumerate(lines[:-1])) + lines[-1]
                said += len(lines) - 1
            await exchange.say(data)

        await say(stream.opening())
        if behaviour.mode == "late" and await exchange.pause(
            20.0 if behaviour.delay_seconds is None else behaviour.delay_seconds
        ):
            return False
        for index, piece in enumerate([*pieces, stream.closing()]):
            if index == behaviour.after_chunks:
                match behaviour.mode:
                    case "cut":
                        return False
                    case "stall":
                        await exchange.pause(None)
                    case "malformed":
                        await say(_BROKEN_EVENT)
                    case "error_frame":
                        await say(shape.error_event(_REFUSALS["503"]))
                        return True
            if await exchange.pause(behaviour.chunk_delay_seconds):
                return False
            await say(piece)
        if behaviour.mode == "no_done":
            return not (behaviour.delay_seconds and await exchange.pause(behaviour.delay_seconds))
        await say(stream.done())
        return True

    async def _refuse(self, send: Send, shape: Shape, refusal: Refusal, extra: Headers | None = None) -> None:
        status, body = shape.refuse(refusal)
        await self._answer(send, status, body, extra)

    async def _answer(self, send: Send, status: int, body: Message | bytes, extra: Headers | None = None) -> None:
        self._count(status)
        await respond(send, status, body, extra)

    def _count(self, status: int) -> None:
        self.counters.by_status[str(status)] = self.counters.by_status.get(str(status), 0) + 1


def _refusal(behaviour: Behaviour, question: Question | None) -> Refusal | None:
    """What the behaviour refuses this request with, if it does."""
    if behaviour.mode in _REFUSALS:
        return _REFUSALS[behaviour.mode]
    if question is None:
        return None
    match behaviour.mode:
        case "context":
            concerned = not behaviour.context_models or question.model in behaviour.context_models
            limit = behaviour.context_words
            if concerned and (limit is None or question.words > limit):
                said = f"prompt is too long: {question.words} tokens > {limit or 0} maximum context length"
                return invalid(said, "context_length_exceeded")
        case "filter":
            return _FILTERED
        case "refuse_prefill" if question.prefill is not None:
            return _NO_PREFILL
    return None


def _headers(scope: Message) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _key(headers: Mapping[str, str]) -> str:
    bearer = headers.get("authorization", "").removeprefix("Bearer ")
    return bearer or headers.get("x-api-key", "") or headers.get("api-key", "")
