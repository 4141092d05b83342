"""What the events of an Anthropic stream mean."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.call import Usage
from proxy.dialects import nesting
from proxy.dialects.anthropic.terms import finish_of, stop_reason_of, usage_of
from proxy.dialects.contract import Delta, Meaning, ToolDelta
from proxy.dialects.sse import data_of

_CONTENT = Meaning.CONTENT
_DATA = b"\ndata: "
"""What follows an event's name, as Anthropic writes it."""
_NOTHING = Delta(Meaning.NOTHING)
_NOT_TOLD = Delta(Meaning.NOTHING, told=False)
_CONTENT_NOT_TOLD = Delta(_CONTENT, told=False)
_MALFORMED = Delta(Meaning.MALFORMED)
_DONE = Delta(Meaning.DONE)

Event = dict[str, Any]


class MessagesDecoder:
    """Reads one stream. `native`: the reader gets the events themselves, and so sees what a `Delta` cannot tell:
    signatures of thinking, citations, the work of Anthropic's own tools. Nobody else would."""

    __slots__ = ("_argued", "_blocks", "_native", "_tools", "_usage", "finished")

    def __init__(self, *, native: bool) -> None:
        self._native = native
        self._blocks: dict[int, int | None] = {}
        """Open blocks: the tool call's number, or None for other blocks."""
        self._argued: set[int] = set()
        """Tool calls whose arguments have begun."""
        self._tools = 0
        self._usage: Usage | None = None
        self.finished = False

    def read(self, event: bytes) -> Delta:
        """What one event means. Never raises. Events of other types, `ping` and those that are still to come, mean
        nothing to us."""
        at = event.find(_DATA)
        if at > 0 and event.find(b"\n", at + 1) == len(event) - 2:
            data: bytes | None = event[at + len(_DATA) : -2]
        else:
            data = data_of(event)
        if data is None:
            return _NOTHING
        try:
            said = orjson.loads(data)
        except orjson.JSONDecodeError:
            return _DONE if data.strip() == b"[DONE]" else _MALFORMED
        if not isinstance(said, dict):
            return _MALFORMED
        match said.get("type"):
            case "content_block_delta":
                return self._block_delta(said)
            case "content_block_start":
                return self._block_start(said)
            case "content_block_stop":
                return self._block_stop(said)
            case "message_start":
                return self._message_start(said)
            case "message_delta":
                return self._message_delta(said)
            case "message_stop":
                return _DONE
            case "error":
                error = said.get("error")
                return Delta(Meaning.ERROR, error=error if isinstance(error, dict) else {"message": str(error)})
        return _NOTHING

    def _message_start(self, said: Event) -> Delta:
        message = said.get("message")
        if not isinstance(message, dict):
            return _MALFORMED
        self._usage = usage_of(message.get("usage"), self._usage)
        model = message.get("model")
        return Delta(Meaning.NOTHING, usage=self._usage, model=model if isinstance(model, str) else None)

    def _block_start(self, said: Event) -> Delta:
        match said:
            case {"index": int(index), "content_block": {"type": "text"} as block}:
                self._blocks[index] = None
                text = block.get("text")
                return Delta(_CONTENT, text=text) if isinstance(text, str) and text else _NOTHING
            case {"index": int(index), "content_block": {"type": "thinking"} as block}:
                self._blocks[index] = None
                text = block.get("thinking")
                return self._thought(text) if isinstance(text, str) else _NOTHING
            case {"index": int(index), "content_block": {"type": "tool_use", "id": str(identity), "name": str(name)}}:
                number = self._blocks[index] = self._tools
                self._tools += 1
                given = said["content_block"].get("input")
                if nesting.is_too_deep(given):
                    return _MALFORMED
                arguments = orjson.dumps(given).decode() if given and isinstance(given, dict) else ""
                if arguments:
                    self._argued.add(number)
                return Delta(_CONTENT, tools=(ToolDelta(number, identity, name, arguments),))
            case {"index": int(index), "content_block": {"type": str(_)}}:
                self._blocks[index] = None
                return self._beyond_words()
        return _MALFORMED

    def _block_delta(self, said: Event) -> Delta:
        delta = said.get("delta")
        if delta.__class__ is dict and delta.get("type") == "text_delta" and delta.get("text").__class__ is str:
            return Delta(_CONTENT, delta["text"]) if delta["text"] else _NOTHING
        match delta:
            case {"type": "text_delta"}:
                return _MALFORMED
            case {"type": "input_json_delta", "partial_json": str(part)}:
                number = self._blocks.get(_index(said))
                if number is None:
                    return self._beyond_words()
                if not part:
                    return _NOTHING
                self._argued.add(number)
                return Delta(_CONTENT, tools=(ToolDelta(number, arguments=part),))
            case {"type": "thinking_delta", "thinking": str(text)}:
                return self._thought(text)
            case {"type": str(_)}:
                return _NOT_TOLD if self._native else _NOTHING
        return _MALFORMED

    def _block_stop(self, said: Event) -> Delta:
        """A call without arguments has none in Anthropic's stream, but an empty object in everybody else's."""
        number = self._blocks.pop(_index(said), None)
        if number is None or number in self._argued:
            return _NOTHING
        return Delta(_CONTENT, tools=(ToolDelta(number, arguments="{}"),))

    def _message_delta(self, said: Event) -> Delta:
        self._usage = usage_of(said.get("usage"), self._usage)
        match said.get("delta"):
            case {"stop_reason": str(reason)}:
                self.finished = True
                finish = finish_of(reason)
                told = not self._native or stop_reason_of(finish) == reason
                return Delta(_CONTENT, finish=finish, usage=self._usage, told=told)
        return Delta(Meaning.NOTHING, usage=self._usage)

    def _thought(self, text: str) -> Delta:
        """Thinking that is to be thought on by the same model needs its signature, which nobody else can give."""
        return Delta(_CONTENT, reasoning=text, told=not self._native) if text else _NOTHING

    def _beyond_words(self) -> Delta:
        return _CONTENT_NOT_TOLD if self._native else _NOTHING


def _index(said: Event) -> int:
    index = said.get("index")
    return index if isinstance(index, int) else -1
