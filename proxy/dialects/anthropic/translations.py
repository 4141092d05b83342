"""The three ways that have Anthropic's dialect at one end: its callers anywhere, and anybody's at its providers."""

from __future__ import annotations

from dataclasses import replace

import orjson

from proxy.call import Call
from proxy.dialects import chat
from proxy.dialects.anthropic import errors
from proxy.dialects.anthropic.answers import completion_of, message_of, parsed_message
from proxy.dialects.anthropic.decoder import MessagesDecoder
from proxy.dialects.anthropic.encoder import MessagesEncoder, events_of
from proxy.dialects.anthropic.from_chat import messages_request
from proxy.dialects.anthropic.terms import finish_of, usage_of
from proxy.dialects.anthropic.to_chat import chat_request
from proxy.dialects.contract import Decoder, Delta, Encoder, Whole

_WHOLE = frozenset(("stop", "length", "tool_calls"))
"""Finishes of answers that came to their own end."""
_OPENAI_CHAT = chat.ToOpenAI()


class ChatAtAnthropic:
    """Chat completions from a provider that speaks Messages."""

    path = "/messages"
    same = False

    def request(self, call: Call, model: str, *, stream_usage: bool, max_tokens: int) -> bytes:
        return orjson.dumps(messages_request(call.fields, model, max_tokens))

    def whole(self, call: Call, body: bytes) -> Whole:
        completion, usage = completion_of(parsed_message(body), call)
        finish = completion["choices"][0]["finish_reason"]
        return Whole(orjson.dumps(completion), usage, completion["model"], finish, finish in _WHOLE)

    def decoder(self, call: Call) -> Decoder:
        return MessagesDecoder(native=False)

    def encoder(self, call: Call) -> Encoder:
        return _OPENAI_CHAT.encoder(call)

    def replayed(self, call: Call, body: bytes) -> bytes | None:
        return _OPENAI_CHAT.replayed(call, body)

    def error(self, status: int, body: bytes) -> bytes:
        return errors.to_openai(status, body)


class MessagesAtAnthropic:
    """Messages from a provider that speaks Messages: everything goes through as it came, but the model's name."""

    path = "/messages"
    same = True

    def request(self, call: Call, model: str, *, stream_usage: bool, max_tokens: int) -> bytes:
        lacking = {} if "max_tokens" in call.fields else {"max_tokens": max_tokens}
        if call.model == model and not lacking:
            return call.body
        return orjson.dumps(call.fields | {"model": model} | lacking)

    def whole(self, call: Call, body: bytes) -> Whole:
        message = parsed_message(body)
        model, finish = message.get("model"), finish_of(message["stop_reason"])
        storable = finish in _WHOLE and message["stop_reason"] != "pause_turn"
        return Whole(body, usage_of(message.get("usage")), model if isinstance(model, str) else None, finish, storable)

    def decoder(self, call: Call) -> Decoder:
        return MessagesDecoder(native=True)

    def encoder(self, call: Call) -> Encoder:
        return MessagesEncoder(call)

    def replayed(self, call: Call, body: bytes) -> bytes | None:
        return events_of(orjson.loads(body))

    def error(self, status: int, body: bytes) -> bytes:
        return errors.native(status, body)


class MessagesAtOpenAI:
    """Messages from a provider that speaks chat completions."""

    path = "/chat/completions"
    same = False

    def request(self, call: Call, model: str, *, stream_usage: bool, max_tokens: int) -> bytes:
        return orjson.dumps(chat_request(call.fields, model, stream_usage=stream_usage))

    def whole(self, call: Call, body: bytes) -> Whole:
        judged = _OPENAI_CHAT.whole(call, body)
        message = message_of(orjson.loads(body), call, judged.usage)
        finish = finish_of(message["stop_reason"])
        return Whole(orjson.dumps(message), judged.usage, judged.model, finish, judged.storable)

    def decoder(self, call: Call) -> Decoder:
        return _Unthinking(_OPENAI_CHAT.decoder(call))

    def encoder(self, call: Call) -> Encoder:
        return MessagesEncoder(call)

    def replayed(self, call: Call, body: bytes) -> bytes | None:
        return events_of(orjson.loads(body))

    def error(self, status: int, body: bytes) -> bytes:
        return errors.from_openai(status, body)


class _Unthinking:
    """Leaves reasoning out, which a caller of Messages cannot be shown without Anthropic's signature; so a continued
    answer need not agree on it either."""

    __slots__ = ("_decoder",)

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    @property
    def finished(self) -> bool:
        return self._decoder.finished

    def read(self, event: bytes) -> Delta:
        """As the other decoder, without reasoning."""
        delta = self._decoder.read(event)
        return replace(delta, reasoning="") if delta.reasoning else delta
