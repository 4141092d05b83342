"""Whole answers: a message as a chat completion, a chat completion as a message."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.call import Call, Usage
from proxy.dialects import nesting
from proxy.dialects.anthropic.terms import anthropic_usage, finish_of, stop_reason_of, usage_of
from proxy.dialects.contract import MalformedError
from proxy.dialects.openai import usage_told

Answer = dict[str, Any]


def parsed_message(body: bytes) -> Answer:
    """A provider's message. MalformedError."""
    try:
        message = nesting.loads(body)
    except ValueError as error:
        raise MalformedError(f"not JSON: {error}") from error
    match message:
        case {"type": "message", "content": list(blocks), "stop_reason": str(_)} if all(map(_is_block, blocks)):
            return dict(message)
    raise MalformedError("no message in it")


def _is_block(block: object) -> bool:
    return isinstance(block, dict) and isinstance(block.get("type"), str)


def completion_of(message: Answer, call: Call) -> tuple[Answer, Usage | None]:
    """A message as `chat.completion`: thinking is `reasoning_content`; what Anthropic's own tools did is left out.
    MalformedError for a block without what its type demands."""
    text: list[str] = []
    reasoning: list[str] = []
    calls: list[Answer] = []
    for block in message["content"]:
        match block:
            case {"type": "text", "text": str(words)}:
                text.append(words)
            case {"type": "thinking", "thinking": str(thought)}:
                reasoning.append(thought)
            case {"type": "tool_use", "id": str(identity), "name": str(name), "input": dict(given)}:
                function = {"name": name, "arguments": orjson.dumps(given).decode()}
                calls.append({"id": identity, "type": "function", "function": function})
            case {"type": "text" | "thinking" | "tool_use" as kind}:
                raise MalformedError(f"a block of type {kind} without what it should have")
    said: Answer = {"role": "assistant", "content": "".join(text) if text or not calls else None, "refusal": None}
    if reasoning:
        said["reasoning_content"] = "".join(reasoning)
    if calls:
        said["tool_calls"] = calls
    usage = usage_of(message.get("usage"))
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish_of(message["stop_reason"])}
    return {
        "id": _text(message, "id", f"chatcmpl-{call.id}"),
        "object": "chat.completion",
        "created": call.created,
        "model": _text(message, "model", call.model),
        "choices": [choice],
        "usage": None if usage is None else usage_told(usage),
    }, usage


def message_of(completion: Answer, call: Call, usage: Usage | None) -> Answer:
    """A chat completion as a message. Reasoning is left out: a thinking block needs a signature that only Anthropic can
    give, and would be refused there later. MalformedError."""
    try:
        choice = completion["choices"][0]
        said, finish = choice["message"], choice.get("finish_reason")
        finish = finish if isinstance(finish, str) else "stop"
        content = text_blocks(said.get("content")) + text_blocks(said.get("refusal"))
        for one in said.get("tool_calls") or []:
            block = tool_block(one["id"], one["function"]["name"], one["function"].get("arguments") or "")
            if block is not None:
                content.append(block)
            elif finish != "length":
                raise MalformedError("arguments of a tool call that are no JSON object")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise MalformedError("no chat completion in it") from error
    if said.get("refusal"):
        finish = "content_filter"
    identity, model = _text(completion, "id", f"msg_{call.id}"), _text(completion, "model", call.model)
    return message(identity, model, content, finish, usage)


def message(identity: str, model: str, content: list[Answer], finish: str | None, usage: Usage | None) -> Answer:
    """A whole message, or with `finish` None the one that a stream begins with."""
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None if finish is None else stop_reason_of(finish),
        "stop_sequence": None,
        "usage": anthropic_usage(usage),
    }


def text_blocks(content: object) -> list[Answer]:
    """Text as blocks, none for no text. Some servers give an assistant's content as parts. TypeError."""
    if isinstance(content, list):
        content = "".join(str(part["text"]) for part in content if part.get("type") == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError("content is neither text nor parts")
    return [{"type": "text", "text": content}] if content else []


def tool_block(identity: str, name: str, arguments: str) -> Answer | None:
    """One tool call as a block; None if its arguments are no JSON object, cut short perhaps."""
    try:
        given = nesting.loads(arguments) if arguments.strip() else {}
    except ValueError:
        return None
    return {"type": "tool_use", "id": identity, "name": name, "input": given} if isinstance(given, dict) else None


def _text(answer: Answer, name: str, otherwise: str) -> str:
    value = answer.get(name)
    return value if isinstance(value, str) and value else otherwise
