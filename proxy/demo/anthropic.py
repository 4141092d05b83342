"""Anthropic's Messages API, as the demo upstream speaks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.demo.shape import Head, Refusal, event, limit, said_in
from proxy.demo.speech import Answer, Part, Question, Tool

_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_SIGNATURE = "demo-signature"


class Messages:
    """`POST /v1/messages`."""

    def question(self, request: Mapping[str, Any]) -> Question:
        messages = request["messages"]
        budget = limit(request, "max_tokens")
        if budget is None:
            raise ValueError("max_tokens: Field required")
        newest = messages[-1]
        prefill = said_in(newest["content"]) if newest["role"] == "assistant" else None
        if prefill is not None and prefill != prefill.rstrip():
            raise ValueError("messages: final assistant content cannot end with trailing whitespace")
        newest = next((message for message in reversed(messages) if message["role"] == "user"), newest)
        result = _result_of(newest["content"])
        tools = tuple(Tool(tool["name"], tool.get("input_schema") or {}) for tool in request.get("tools") or ())
        choice = request.get("tool_choice") or {}
        must_use = {"any": "*", "tool": choice.get("name")}.get(choice.get("type", "auto"))
        return Question(
            model=str(request["model"]),
            prompt=said_in(newest["content"]) if result is None else result,
            words=sum(len(str(message).split()) for message in messages) + len(said_in(request.get("system")).split()),
            stream=request.get("stream") is True,
            prefill=prefill,
            tools=() if choice.get("type") == "none" or result is not None else tools,
            must_use=None if result is not None else must_use,
            schema=((request.get("output_config") or {}).get("format") or {}).get("schema"),
            max_tokens=budget,
        )

    def whole(self, head: Head, question: Question, answer: Answer) -> dict[str, Any]:
        blocks: list[dict[str, Any]] = []
        if answer.reasoning:
            blocks.append({"type": "thinking", "thinking": answer.reasoning, "signature": _SIGNATURE})
        if answer.text:
            blocks.append({"type": "text", "text": answer.text})
        blocks += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": orjson.loads(call.arguments)}
            for call in answer.calls
        ]
        return _message(head, answer) | {"content": blocks, "stop_reason": _STOPS[answer.finish]}

    def stream(self, head: Head, question: Question, answer: Answer, request: Mapping[str, Any]) -> _MessagesStream:
        return _MessagesStream(head, answer)

    def refuse(self, refusal: Refusal) -> tuple[int, dict[str, Any]]:
        return refusal.anthropic[0], _error(refusal)

    def error_event(self, refusal: Refusal) -> bytes:
        return event(_error(refusal), "error")


class _MessagesStream:
    def __init__(self, head: Head, answer: Answer) -> None:
        self._head = head
        self._answer = answer
        self._index = -1
        self._open: object = None
        """What the open block is for: `text`, `thinking`, or the number of a tool call."""

    def opening(self) -> bytes:
        message = _message(self._head, self._answer) | {"content": [], "stop_reason": None}
        message["usage"] = message["usage"] | {"output_tokens": 1}
        return event({"type": "message_start", "message": message}, "message_start") + event({"type": "ping"}, "ping")

    def part(self, part: Part) -> bytes:
        if part.call is not None:
            call = self._answer.calls[part.call]
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            begun = self._block(part.call, block)
            if part.arguments is None:
                return begun
            return begun + self._delta({"type": "input_json_delta", "partial_json": part.arguments})
        if part.reasoning:
            begun = self._block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            return begun + self._delta({"type": "thinking_delta", "thinking": part.reasoning})
        begun = self._block("text", {"type": "text", "text": ""})
        return begun + self._delta({"type": "text_delta", "text": part.text})

    def closing(self) -> bytes:
        delta = {"stop_reason": _STOPS[self._answer.finish], "stop_sequence": None}
        told = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": self._answer.output_tokens}}
        return self._close() + event(told, "message_delta")

    def done(self) -> bytes:
        return event({"type": "message_stop"}, "message_stop")

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        told = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return event(told, "content_block_delta")

    def _block(self, purpose: object, block: Mapping[str, Any]) -> bytes:
        if self._open == purpose:
            return b""
        closed = self._close()
        self._open = purpose
        self._index += 1
        begun = {"type": "content_block_start", "index": self._index, "content_block": block}
        return closed + event(begun, "content_block_start")

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        signed = self._delta({"type": "signature_delta", "signature": _SIGNATURE}) if self._open == "thinking" else b""
        self._open = None
        return signed + event({"type": "content_block_stop", "index": self._index}, "content_block_stop")


def _message(head: Head, answer: Answer) -> dict[str, Any]:
    usage = {
        "input_tokens": answer.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": answer.output_tokens,
    }
    return {
        "id": f"msg_{head.id}",
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "stop_sequence": None,
        "usage": usage,
    }


def _result_of(content: object) -> str | None:
    """What a tool gave, if the newest message is about that."""
    if not isinstance(content, list):
        return None
    results = [part for part in content if isinstance(part, dict) and part.get("type") == "tool_result"]
    return said_in(results[-1].get("content")) if results else None


def _error(refusal: Refusal) -> dict[str, Any]:
    return {"type": "error", "error": {"type": refusal.anthropic[1], "message": refusal.message}}
