"""Speaks to callers of `/v1/messages` in events: of another dialect's stream, of one that is continued, of a whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from proxy.call import Call, Usage
from proxy.dialects.anthropic.answers import message, text_blocks, tool_block
from proxy.dialects.anthropic.errors import error_document
from proxy.dialects.anthropic.terms import anthropic_usage, stop_reason_of
from proxy.dialects.contract import Delta, Meaning, Sent, ToolDelta
from proxy.dialects.sse import data_of

_BLOCK_DELTA = b"event: content_block_delta"
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_SAID = (Meaning.CONTENT, Meaning.NOTHING)
_TEXT: dict[str, Any] = {"type": "text", "text": ""}


def event(said: dict[str, Any]) -> bytes:
    """One event of the stream, named as its type."""
    return b"event: " + str(said["type"]).encode() + b"\ndata: " + orjson.dumps(said) + b"\n\n"


class MessagesEncoder:
    """One answer. Blocks follow one another in this dialect, whereas deltas of several tool calls might come by turns:
    the first call flows, what comes beside it is kept until the finish."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._id, self._model = f"msg_{call.id}", call.model
        self._started = self._concluded = self._stopped = False
        self._blocks = 0
        """How many have been begun."""
        self._tools: set[int] = set()
        """The numbers of the tool calls among them."""
        self._open: str | None = None
        """The type of the block that has not ended."""
        self._tool: int | None = None
        """The number of the tool call that flows."""
        self._kept: dict[int, ToolDelta] = {}
        self._kept_text: list[str] = []
        self._finish: str | None = None
        self._usage: Usage | None = None

    def forwarded(self, event: bytes, delta: Delta) -> None:
        """Learns from an event of Anthropic's own."""
        if event.startswith(_BLOCK_DELTA):
            return
        self._note(delta)
        data = data_of(event) if delta.meaning in _SAID else None
        match orjson.loads(data) if data else None:
            case {"type": "message_start", "message": {"id": str(identity)}}:
                self._started, self._id = True, identity
            case {"type": "content_block_start", "content_block": {"type": str(kind)}}:
                self._blocks += 1
                self._open = kind
                if kind == "tool_use":
                    self._tool = len(self._tools)
                    self._tools.add(self._tool)
            case {"type": "content_block_stop"}:
                self._open = self._tool = None
            case {"type": "message_delta", "delta": {"stop_reason": str(_)}}:
                self._concluded = True

    def encode(self, delta: Delta) -> bytes:
        """The events that say it; a ping for what this dialect cannot say, so that the caller sees that we live."""
        self._note(delta)
        if delta.meaning is not Meaning.CONTENT:
            return b""
        said = b"" if self._started else self._start()
        if delta.text:
            said += self._say(delta.text)
        for part in delta.tools:
            said += self._use(part)
        if delta.finish:
            said += self._settle()
        return said or _PING

    def end(self) -> bytes:
        """The end of the last block, `message_delta` with the reason and the usage, and `message_stop`."""
        if self._stopped:
            return b""
        said = b"" if self._started else self._start()
        said += self._settle()
        if not self._concluded:
            delta = {"stop_reason": stop_reason_of(self._finish), "stop_sequence": None}
            said += event({"type": "message_delta", "delta": delta, "usage": anthropic_usage(self._usage)})
        self._concluded = self._stopped = True
        return said + event({"type": "message_stop"})

    def error(self, message: str, code: str) -> bytes:
        """An error event; nothing follows it."""
        return event(error_document("api_error", message, self._call.id))

    def assembled(self, sent: Sent) -> bytes | None:
        """The message that `sent` adds up to; None if it is not all there."""
        if not sent.told or sent.finish is None:
            return None
        content = text_blocks(sent.text)
        for _, tool in sorted(sent.tools.items()):
            block = tool_block(tool.id or "", tool.name or "", tool.arguments)
            if block is None:
                return None
            content.append(block)
        return orjson.dumps(message(self._id, self._model, content, sent.finish, self._usage))

    def _note(self, delta: Delta) -> None:
        if delta.model:
            self._model = delta.model
        if delta.usage is not None:
            self._usage = delta.usage
        if delta.finish:
            self._finish = delta.finish

    def _start(self) -> bytes:
        self._started = True
        begun = message(self._id, self._model, [], None, self._usage)
        return event({"type": "message_start", "message": begun})

    def _say(self, text: str) -> bytes:
        if self._tool is not None:
            self._kept_text.append(text)
            return b""
        begun = b"" if self._open == "text" else self._begin(_TEXT)
        return begun + self._delta({"type": "text_delta", "text": text})

    def _use(self, part: ToolDelta) -> bytes:
        if self._tool is None and part.index not in self._tools:
            self._tool = part.index
            self._tools.add(part.index)
            identity = part.id or f"toolu_{self._call.id}_{part.index}"
            begun = self._begin({"type": "tool_use", "id": identity, "name": part.name or "", "input": {}})
        elif self._tool == part.index:
            begun = b""
        else:
            known = self._kept.get(part.index, part)
            joined = known if known is part else replace(known, arguments=known.arguments + part.arguments)
            self._kept[part.index] = joined
            return b""
        if not part.arguments:
            return begun
        return begun + self._delta({"type": "input_json_delta", "partial_json": part.arguments})

    def _settle(self) -> bytes:
        """Says what was kept, and ends the last block."""
        said = self._close()
        kept, self._kept = sorted(self._kept.items()), {}
        for _, tool in kept:
            said += self._use(tool) + self._close()
        if self._kept_text:
            said += self._say("".join(self._kept_text)) + self._close()
            self._kept_text = []
        return said

    def _begin(self, block: dict[str, Any]) -> bytes:
        said = self._close_block() + event(
            {"type": "content_block_start", "index": self._blocks, "content_block": block}
        )
        self._open = block["type"]
        self._blocks += 1
        return said

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return event({"type": "content_block_delta", "index": self._blocks - 1, "delta": delta})

    def _close(self) -> bytes:
        self._tool = None
        return self._close_block()

    def _close_block(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return event({"type": "content_block_stop", "index": self._blocks - 1})


def events_of(whole: dict[str, Any]) -> bytes:
    """A whole message as the stream that would have carried it."""
    said = [event({"type": "message_start", "message": whole | {"content": [], "stop_reason": None}})]
    for index, block in enumerate(whole["content"]):
        begun, deltas = _in_deltas(block)
        said.append(event({"type": "content_block_start", "index": index, "content_block": begun}))
        said += [event({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas]
        said.append(event({"type": "content_block_stop", "index": index}))
    ended = {"stop_reason": whole.get("stop_reason"), "stop_sequence": whole.get("stop_sequence")}
    said.append(event({"type": "message_delta", "delta": ended, "usage": whole.get("usage")}))
    said.append(event({"type": "message_stop"}))
    return b"".join(said)


def _in_deltas(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it begins, and what is said after that; blocks of other types begin whole."""
    match block:
        case {"type": "text", "text": str(text)}:
            given = block.get("citations")
            citations = given if isinstance(given, list) else []
            cited = [{"type": "citations_delta", "citation": one} for one in citations]
            bare = {name: value for name, value in block.items() if name != "citations"}
            return bare | {"text": ""}, [{"type": "text_delta", "text": text}, *cited]
        case {"type": "thinking", "thinking": str(text)}:
            signature = str(block.get("signature", ""))
            thought = [{"type": "thinking_delta", "thinking": text}] if text else []
            signed = [{"type": "signature_delta", "signature": signature}] if signature else []
            return block | {"thinking": "", "signature": ""}, thought + signed
        case {"type": "tool_use" | "server_tool_use", "input": dict(put)}:
            return block | {"input": {}}, [{"type": "input_json_delta", "partial_json": orjson.dumps(put).decode()}]
    return block, []
