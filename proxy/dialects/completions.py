"""OpenAI's older text completions, for callers and providers that both speak them."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.call import Call, Usage
from proxy.dialects import openai
from proxy.dialects.contract import Delta, Meaning, Sent, Whole
from proxy.dialects.openai import MALFORMED, NOTHING, Identity, event_of
from proxy.dialects.sse import DONE, data_of


class ToOpenAI:
    """Text completions at a provider that speaks them."""

    path = "/completions"
    same = True

    def request(self, call: Call, model: str, *, stream_usage: bool, max_tokens: int) -> bytes:
        return openai.request_body(call, model, stream_usage=stream_usage)

    def whole(self, call: Call, body: bytes) -> Whole:
        return openai.whole_of(body)

    def decoder(self, call: Call) -> TextDecoder:
        return TextDecoder(call.choices)

    def encoder(self, call: Call) -> TextEncoder:
        return TextEncoder(call)

    def replayed(self, call: Call, body: bytes) -> bytes | None:
        """The stream of a text completion repeats its objects: one event can say it all."""
        answer = openai.object_of(body)
        told = event_of({name: value for name, value in answer.items() if name != "usage"})
        if call.usage:
            told += event_of(answer | {"choices": []})
        return told + DONE

    def error(self, status: int, body: bytes) -> bytes:
        return openai.refusal(status, body)


class TextDecoder:
    """Understands the events of a streamed text completion."""

    __slots__ = ("_ended", "_wanted", "finished")

    def __init__(self, choices: int) -> None:
        self._wanted = choices
        self._ended: set[int] = set()
        self.finished = False

    def read(self, event: bytes) -> Delta:
        """What one event means. Never raises."""
        data = data_of(event)
        if data is None:
            return NOTHING
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return openai.unparsed(data)
        if not isinstance(chunk, dict):
            return MALFORMED
        if chunk.get("error"):
            return openai.error_delta(chunk["error"])
        choices, usage, model = chunk.get("choices") or [], openai.usage_of(chunk.get("usage")), chunk.get("model")
        model = model if isinstance(model, str) else None
        if not isinstance(choices, list) or not all(map(_is_choice, choices)):
            return MALFORMED
        if not choices:
            return NOTHING if usage is None else Delta(Meaning.NOTHING, usage=usage, model=model, bare=True)
        for choice in choices:
            if choice.get("finish_reason") in openai.BROKEN:
                return openai.broken_off()
            if choice.get("finish_reason"):
                self._ended.add(choice.get("index") or 0)
        self.finished = len(self._ended) >= self._wanted
        first = choices[0]
        told = len(choices) == 1 and not first.get("index") and not first.get("logprobs")
        speaks = any(choice.get("text") or choice.get("finish_reason") for choice in choices)
        meaning = Meaning.CONTENT if speaks else Meaning.NOTHING
        return Delta(
            meaning, first.get("text") or "", finish=first.get("finish_reason"), usage=usage, model=model, told=told
        )


def _is_choice(choice: Any) -> bool:
    return (
        isinstance(choice, dict)
        and isinstance(choice.get("text"), str | None)
        and isinstance(choice.get("finish_reason"), str | None)
        and isinstance(choice.get("index"), int | None)
    )


class TextEncoder:
    """Speaks the events of a streamed text completion."""

    __slots__ = ("_asked", "_identity", "_owed", "_usage")

    def __init__(self, call: Call) -> None:
        self._asked = call.usage
        self._identity = Identity(call, "text_completion", "cmpl")
        self._usage: Usage | None = None
        self._owed = False

    def forwarded(self, event: bytes, delta: Delta) -> None:
        """Learns from an event that was sent as it came."""
        if delta.meaning is Meaning.CONTENT:
            self._identity.learn(event)
        if delta.usage is not None:
            self._usage = delta.usage

    def encode(self, delta: Delta) -> bytes:
        """The event that says it; a usage waits for the end."""
        if delta.usage is not None:
            self._usage, self._owed = delta.usage, True
        if delta.model:
            self._identity.model = delta.model
        if delta.meaning is not Meaning.CONTENT:
            return b""
        return event_of(self._identity.head() | {"choices": [_choice(delta.text, delta.finish)]})

    def end(self) -> bytes:
        """The usage, if it was asked for and has not been told, and [DONE]."""
        if not (self._asked and self._owed and self._usage is not None):
            return DONE
        return event_of(self._identity.head() | {"choices": [], "usage": openai.usage_told(self._usage)}) + DONE

    def error(self, message: str, code: str) -> bytes:
        return openai.error_frame(message, code)

    def assembled(self, sent: Sent) -> bytes | None:
        """The text completion that the stream amounts to."""
        if not sent.told or sent.finish is None:
            return None
        answer = self._identity.head() | {"choices": [_choice(sent.text, sent.finish)]}
        if self._usage is not None:
            answer["usage"] = openai.usage_told(self._usage)
        return orjson.dumps(answer)


def _choice(text: str, finish: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
