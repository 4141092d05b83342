"""OpenAI's chat completions, for callers and providers that both speak them."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.call import Call, Usage
from proxy.dialects import openai
from proxy.dialects.contract import Delta, Meaning, Sent, ToolDelta, Whole
from proxy.dialects.mould import Mould, mould_of
from proxy.dialects.openai import MALFORMED, NOTHING, Identity, event_of, is_said
from proxy.dialects.sse import DONE, data_of

_TOLD = frozenset({"role", "content", "reasoning_content", "reasoning", "tool_calls"})
_CONTENT = Meaning.CONTENT
_LESSONS = 3
"""How many events of a stream are looked at for what its events have in common."""


class ToOpenAI:
    """Chat completions at a provider that speaks them."""

    path = "/chat/completions"
    same = True

    def request(self, call: Call, model: str, *, stream_usage: bool, max_tokens: int) -> bytes:
        return openai.request_body(call, model, stream_usage=stream_usage)

    def whole(self, call: Call, body: bytes) -> Whole:
        return openai.whole_of(body)

    def decoder(self, call: Call) -> ChatDecoder:
        return ChatDecoder(call.choices)

    def encoder(self, call: Call) -> ChatEncoder:
        return ChatEncoder(call)

    def replayed(self, call: Call, body: bytes) -> bytes | None:
        return replayed(openai.object_of(body), usage=call.usage)

    def error(self, status: int, body: bytes) -> bytes:
        return openai.refusal(status, body)


class ChatDecoder:
    """Understands chat completion chunks."""

    __slots__ = ("_ended", "_lessons", "_mould", "_wanted", "finished")

    def __init__(self, choices: int) -> None:
        self._wanted = choices
        self._ended: set[object] = set()
        self.finished = False
        self._mould: Mould | None = None
        self._lessons = _LESSONS

    def read(self, event: bytes) -> Delta:
        """What one event means. Never raises."""
        mould = self._mould
        if mould is not None and (text := mould.text_of(event)):
            return Delta(_CONTENT, text, model=mould.model)
        delta = self._read(event)
        if self._lessons and delta.text:
            self._lessons -= 1
            self._mould = mould_of(event, delta)
        return delta

    def _read(self, event: bytes) -> Delta:
        data = data_of(event)
        if data is None:
            return NOTHING
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            return openai.unparsed(data)
        if chunk.__class__ is not dict:
            return MALFORMED
        choices = chunk.get("choices") or ()
        if chunk.get("error"):
            return openai.error_delta(chunk["error"])
        model, usage = chunk.get("model"), chunk.get("usage")
        if model.__class__ is not str:
            model = None
        counted = None if usage is None else openai.usage_of(usage)
        if not choices:
            return NOTHING if counted is None else Delta(Meaning.NOTHING, usage=counted, model=model, bare=True)
        if choices.__class__ is not list:
            return MALFORMED
        if len(choices) == 1:
            return self._choice(choices[0], model, counted)
        return self._several(choices, model, counted)

    def _choice(self, choice: Any, model: str | None, usage: Usage | None) -> Delta:
        if choice.__class__ is not dict:
            return MALFORMED
        delta = choice.get("delta")
        if delta is None:
            delta = {}
        elif delta.__class__ is not dict:
            return MALFORMED
        finish, index = choice.get("finish_reason"), choice.get("index")
        text, reasoning = delta.get("content"), ""
        tools: tuple[ToolDelta, ...] = ()
        told = not index and not choice.get("logprobs")
        if text.__class__ is not str:
            told = told and not text
            text = ""
        if len(delta) > 1 or (delta and "content" not in delta):
            reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
            calls = delta.get("tool_calls")
            parts = _tools(calls) if calls else ()
            if parts is None:
                return MALFORMED
            tools = parts
            if reasoning.__class__ is not str:
                reasoning, told = "", False
            told = told and (delta.keys() <= _TOLD or not any(is_said(delta[name]) for name in delta.keys() - _TOLD))
        if finish:
            if finish.__class__ is not str:
                return MALFORMED
            if finish in openai.BROKEN:
                return openai.broken_off()
            self._finish(index)
        elif not (text or reasoning or tools) and told:
            return NOTHING if usage is None else Delta(Meaning.NOTHING, usage=usage, model=model)
        return Delta(_CONTENT, text, reasoning, tools, finish or None, usage, model, None, False, told)

    def _several(self, choices: list[Any], model: str | None, usage: Usage | None) -> Delta:
        """An event with several choices: its text is that of the first, and so it is not told whole."""
        deltas = [self._choice(choice, model, usage) for choice in choices]
        meanings = {delta.meaning for delta in deltas}
        for worst in (Meaning.MALFORMED, Meaning.ERROR):
            if worst in meanings:
                return next(delta for delta in deltas if delta.meaning is worst)
        first = deltas[0]
        meaning = Meaning.CONTENT if Meaning.CONTENT in meanings else Meaning.NOTHING
        return Delta(meaning, first.text, first.reasoning, first.tools, first.finish, usage, model, told=False)

    def _finish(self, index: Any) -> None:
        self._ended.add(index if isinstance(index, int) else 0)
        self.finished = len(self._ended) >= self._wanted


def _tools(calls: Any) -> tuple[ToolDelta, ...] | None:
    """The parts of tool calls in a delta; None if they are none."""
    if not isinstance(calls, list):
        return None
    parts = []
    for place, call in enumerate(calls):
        function = (call.get("function") or {}) if isinstance(call, dict) else None
        if not isinstance(function, dict):
            return None
        index, name, arguments, own = call.get("index", place), function.get("name"), function.get("arguments"), call
        if not isinstance(index, int) or not isinstance(name, str | None) or not isinstance(arguments, str | None):
            return None
        known = own.get("id")
        parts.append(ToolDelta(index, known if isinstance(known, str) else None, name, arguments or ""))
    return tuple(parts)


class ChatEncoder:
    """Speaks chat completion chunks."""

    __slots__ = ("_asked", "_identity", "_owed", "_usage")

    def __init__(self, call: Call) -> None:
        self._asked = call.usage
        self._identity = Identity(call, "chat.completion.chunk", "chatcmpl")
        self._usage: Usage | None = None
        self._owed = False

    def forwarded(self, event: bytes, delta: Delta) -> None:
        """Learns from an event that was sent as it came."""
        if delta.meaning is _CONTENT:
            self._identity.learn(event)
        if delta.usage is not None:
            self._usage = delta.usage

    def encode(self, delta: Delta) -> bytes:
        """The chunk that says it; a usage waits for the end."""
        if delta.usage is not None:
            self._usage, self._owed = delta.usage, True
        if delta.model:
            self._identity.model = delta.model
        if delta.meaning is not _CONTENT:
            return b""
        said: dict[str, Any] = {} if self._identity.begun else {"role": "assistant"}
        if delta.reasoning:
            said["reasoning_content"] = delta.reasoning
        if delta.text:
            said["content"] = delta.text
        if delta.tools:
            said["tool_calls"] = [_tool(part) for part in delta.tools]
        choice = {"index": 0, "delta": said, "logprobs": None, "finish_reason": delta.finish}
        return event_of(self._identity.head() | {"choices": [choice]})

    def end(self) -> bytes:
        """The usage, if it was asked for and has not been told, and [DONE]."""
        if not (self._asked and self._owed and self._usage is not None):
            return DONE
        return event_of(self._identity.head() | {"choices": [], "usage": openai.usage_told(self._usage)}) + DONE

    def error(self, message: str, code: str) -> bytes:
        return openai.error_frame(message, code)

    def assembled(self, sent: Sent) -> bytes | None:
        """The chat completion that the stream amounts to."""
        if not sent.told or sent.finish is None:
            return None
        message: dict[str, Any] = {"role": "assistant", "content": sent.text or (None if sent.tools else "")}
        if sent.reasoning:
            message["reasoning_content"] = sent.reasoning
        if sent.tools:
            message["tool_calls"] = [
                {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": tool.arguments}}
                for _, tool in sorted(sent.tools.items())
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": sent.finish}
        answer = self._identity.head() | {"object": "chat.completion", "choices": [choice]}
        if self._usage is not None:
            answer["usage"] = openai.usage_told(self._usage)
        return orjson.dumps(answer)


def _tool(part: ToolDelta) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": part.arguments}
    if part.name is not None:
        function["name"] = part.name
    told: dict[str, Any] = {"index": part.index, "function": function}
    return told if part.id is None else told | {"id": part.id, "type": "function"}


def replayed(answer: dict[str, Any], *, usage: bool) -> bytes:
    """A whole chat completion as the stream that would have carried it; `usage` as in `stream_options`."""
    head = {name: value for name, value in answer.items() if name not in ("choices", "usage", "object")}
    head["object"] = "chat.completion.chunk"
    events: list[dict[str, Any]] = []
    for choice in answer["choices"]:
        said, index = choice.get("message"), choice.get("index", 0)
        message = dict(said) if isinstance(said, dict) else {}
        role = {"role": message.pop("role", "assistant")}
        if isinstance(calls := message.get("tool_calls"), list):
            message["tool_calls"] = [{"index": at} | call for at, call in enumerate(calls) if isinstance(call, dict)]
        rest = {name: value for name, value in choice.items() if name not in ("message", "finish_reason", "index")}
        for delta, finish in ((role, None), (message, None), ({}, choice.get("finish_reason"))):
            events.append({"choices": [{"index": index, "delta": delta, "finish_reason": finish}]})
        events[-2]["choices"][0] |= rest
    if usage:
        events.append({"choices": [], "usage": answer.get("usage")})
    return b"".join(event_of(head | event) for event in events) + DONE
