"""OpenAI's chat completions, text completions and embeddings, as the demo upstream speaks them."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping
from typing import Any

from proxy.demo.shape import Head, Refusal, event, limit, said_in
from proxy.demo.speech import Answer, Part, Question, Tool

_DONE = b"data: [DONE]\n\n"
_MAX_CHOICES = 8
_DIMENSIONS = 8


class _OpenAI:
    """What both kinds of completions share."""

    def refuse(self, refusal: Refusal) -> tuple[int, dict[str, Any]]:
        return refusal.status, _error(refusal)

    def error_event(self, refusal: Refusal) -> bytes:
        return event(_error(refusal))


class Chat(_OpenAI):
    """`POST /v1/chat/completions`."""

    def question(self, request: Mapping[str, Any]) -> Question:
        messages = request["messages"]
        newest = messages[-1]
        prefill = said_in(newest.get("content")) if newest["role"] == "assistant" else None
        if newest["role"] != "tool":
            newest = next((message for message in reversed(messages) if message["role"] == "user"), newest)
        form = request.get("response_format") or {}
        return Question(
            model=str(request.get("model", "")),
            prompt=said_in(newest.get("content")),
            words=sum(len(str(message).split()) for message in messages),
            stream=request.get("stream") is True,
            prefill=prefill,
            tools=() if messages[-1]["role"] == "tool" else _tools(request),
            must_use=None if messages[-1]["role"] == "tool" else _must_use(request.get("tool_choice")),
            schema=_schema(form),
            max_tokens=limit(request, "max_completion_tokens", "max_tokens"),
            choices=min(request.get("n") or 1, _MAX_CHOICES),
        )

    def whole(self, head: Head, question: Question, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["content"] = None
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in answer.calls
            ]
        choices = [
            {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish}
            for index in range(question.choices)
        ]
        return _head(head, "chat.completion", "chatcmpl") | {"choices": choices, "usage": _usage(question, answer)}

    def stream(self, head: Head, question: Question, answer: Answer, request: Mapping[str, Any]) -> _ChatStream:
        return _ChatStream(head, question, answer, usage=_wants_usage(request))


class _ChatStream:
    def __init__(self, head: Head, question: Question, answer: Answer, *, usage: bool) -> None:
        self._head = _head(head, "chat.completion.chunk", "chatcmpl")
        self._question = question
        self._answer = answer
        self._usage = usage

    def _event(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        tail = {"usage": None} if self._usage else {}
        return b"".join(
            event(
                self._head
                | {"choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]}
                | tail
            )
            for index in range(self._question.choices)
        )

    def opening(self) -> bytes:
        return self._event({"role": "assistant", "content": ""})

    def part(self, part: Part) -> bytes:
        if part.call is None:
            return self._event({"reasoning_content": part.reasoning} if part.reasoning else {"content": part.text})
        call = self._answer.calls[part.call]
        if part.arguments is None:
            begun = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
            return self._event({"tool_calls": [{"index": part.call} | begun]})
        return self._event({"tool_calls": [{"index": part.call, "function": {"arguments": part.arguments}}]})

    def closing(self) -> bytes:
        finish = self._event({}, self._answer.finish)
        if not self._usage:
            return finish
        return finish + event(self._head | {"choices": [], "usage": _usage(self._question, self._answer)})

    def done(self) -> bytes:
        return _DONE


class Text(_OpenAI):
    """`POST /v1/completions`. A prompt that ends as the answer begins is continued."""

    def question(self, request: Mapping[str, Any]) -> Question:
        prompt = request["prompt"]
        asked = prompt if isinstance(prompt, str) else str(prompt[0])
        prompts = 1 if isinstance(prompt, str) or isinstance(prompt[0], int) else len(prompt)
        return Question(
            model=str(request.get("model", "")),
            prompt=asked,
            words=len(asked.split()),
            stream=request.get("stream") is True,
            lead=asked,
            max_tokens=limit(request, "max_tokens"),
            choices=min((request.get("n") or 1) * prompts, _MAX_CHOICES),
        )

    def whole(self, head: Head, question: Question, answer: Answer) -> dict[str, Any]:
        choices = [
            {"index": index, "text": answer.text, "logprobs": None, "finish_reason": answer.finish}
            for index in range(question.choices)
        ]
        return _head(head, "text_completion", "cmpl") | {"choices": choices, "usage": _usage(question, answer)}

    def stream(self, head: Head, question: Question, answer: Answer, request: Mapping[str, Any]) -> _TextStream:
        return _TextStream(head, question, answer, usage=_wants_usage(request))


class _TextStream:
    def __init__(self, head: Head, question: Question, answer: Answer, *, usage: bool) -> None:
        self._head = _head(head, "text_completion", "cmpl")
        self._question = question
        self._answer = answer
        self._usage = usage

    def _event(self, text: str, finish: str | None = None) -> bytes:
        return b"".join(
            event(self._head | {"choices": [{"index": index, "text": text, "logprobs": None, "finish_reason": finish}]})
            for index in range(self._question.choices)
        )

    def opening(self) -> bytes:
        return b""

    def part(self, part: Part) -> bytes:
        return self._event(part.text)

    def closing(self) -> bytes:
        finish = self._event("", self._answer.finish)
        if not self._usage:
            return finish
        return finish + event(self._head | {"choices": [], "usage": _usage(self._question, self._answer)})

    def done(self) -> bytes:
        return _DONE


def embeddings(request: Mapping[str, Any]) -> dict[str, Any]:
    """`POST /v1/embeddings`: the same text gets the same unit vector. ValueError, KeyError, TypeError or IndexError for
    a request that is none."""
    given = request["input"]
    one = isinstance(given, str) or (isinstance(given, list) and isinstance(given[0], int))
    texts = [given] if one else list(given)
    if not texts:
        raise ValueError("no input")
    size = request.get("dimensions") or _DIMENSIONS
    data = [
        {"object": "embedding", "index": index, "embedding": _shown(_vector(str(text), size), request)}
        for index, text in enumerate(texts)
    ]
    words = sum(len(str(text).split()) for text in texts)
    usage = {"prompt_tokens": words, "total_tokens": words}
    return {"object": "list", "data": data, "model": str(request.get("model", "")), "usage": usage}


def _vector(text: str, size: int) -> list[float]:
    digest = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(2 * size)
    raw = [number / 32768 - 1 for number in struct.unpack(f"<{size}H", digest)]
    length = sum(number * number for number in raw) ** 0.5 or 1.0
    return [number / length for number in raw]


def _shown(vector: list[float], request: Mapping[str, Any]) -> list[float] | str:
    if request.get("encoding_format") != "base64":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _head(head: Head, kind: str, prefix: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{head.id}",
        "object": kind,
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.upstream,
    }


def _usage(question: Question, answer: Answer) -> dict[str, Any]:
    output = answer.output_tokens * question.choices
    total = answer.input_tokens + output
    return {"prompt_tokens": answer.input_tokens, "completion_tokens": output, "total_tokens": total}


def _wants_usage(request: Mapping[str, Any]) -> bool:
    options = request.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _error(refusal: Refusal) -> dict[str, Any]:
    kind, code = refusal.openai
    return {"error": {"message": refusal.message, "type": kind, "param": None, "code": code}}


def _tools(request: Mapping[str, Any]) -> tuple[Tool, ...]:
    if request.get("tool_choice") == "none":
        return ()
    functions = [tool["function"] for tool in request.get("tools") or () if tool.get("type") == "function"]
    return tuple(Tool(function["name"], function.get("parameters") or {}) for function in functions)


def _must_use(choice: object) -> str | None:
    if isinstance(choice, dict):
        return str(choice["function"]["name"])
    return "*" if choice == "required" else None


def _schema(form: Mapping[str, Any]) -> Mapping[str, Any] | None:
    match form.get("type"):
        case "json_object":
            return {}
        case "json_schema":
            schema: Mapping[str, Any] = form["json_schema"].get("schema") or {}
            return schema
        case _:
            return None
