"""PURE: what the demo upstream says, whichever API it is asked by; the same question gets the same words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.demo.behaviour import Behaviour

_WORDS = re.compile(r"\S+\s*|\s+")
_ARGUMENT_CHARACTERS = 8
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the request offers."""

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """A request, whichever API it came by."""

    model: str
    prompt: str
    """The newest thing that was said to the assistant."""
    words: int
    """Of all that was said."""
    stream: bool
    prefill: str | None = None
    """The assistant's beginning that it shall continue."""
    lead: str | None = None
    """A bare text that it shall complete; a fixed `text` that has begun in it goes on."""
    tools: tuple[Tool, ...] = ()
    must_use: str | None = None
    """A tool that must be called; `*` for any."""
    schema: Mapping[str, Any] | None = None
    """What a JSON answer shall look like; empty for any object."""
    max_tokens: int | None = None
    choices: int = 1


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Part:
    """One chunk of an answer: some text, some reasoning, the begin of a tool call, or some of its arguments."""

    text: str = ""
    reasoning: str = ""
    call: int | None = None
    """Which tool call it belongs to."""
    arguments: str | None = None
    """None with `call`: the call begins."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said, and in which chunks."""

    parts: tuple[Part, ...]
    finish: str
    """OpenAI's word."""
    calls: tuple[Call, ...] = ()
    text: str = ""
    reasoning: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


def answer_to(question: Question, name: str, behaviour: Behaviour) -> Answer:
    """The answer of the upstream called `name`."""
    calls = _calls(question)
    reasoning = _cut(behaviour.reasoning or "", behaviour)
    parts = [Part(reasoning=piece) for piece in reasoning]
    finish = "tool_calls" if calls else "stop"
    if calls:
        for index, call in enumerate(calls):
            parts.append(Part(call=index))
            parts += [
                Part(call=index, arguments=call.arguments[at : at + _ARGUMENT_CHARACTERS])
                for at in range(0, len(call.arguments), _ARGUMENT_CHARACTERS)
            ]
    else:
        parts += [Part(text=piece) for piece in _pieces(question, name, behaviour)]
    if behaviour.mode == "filter_finish":
        parts, finish = parts[: behaviour.after_chunks], "content_filter"
    elif question.max_tokens is not None and question.max_tokens < len(parts):
        parts, finish = parts[: question.max_tokens], "length"
    text = "".join(part.text for part in parts)
    return Answer(
        tuple(parts),
        finish,
        calls,
        text if behaviour.text is not None else text.rstrip(),
        "".join(part.reasoning for part in parts),
        question.words,
        len(parts),
    )


def _pieces(question: Question, name: str, behaviour: Behaviour) -> list[str]:
    if behaviour.text is not None:
        text = behaviour.text
    elif question.schema is not None:
        text = _json(question.schema, question.prompt)
    else:
        speaker = "I" if behaviour.same_text else name
        text = " ".join(f"{speaker} heard: {question.prompt}".split()) + " "
    begun = question.prefill or (question.lead if behaviour.text is not None else None)
    if begun:
        text = text[_said(text, begun) :]
    words = _cut(text, behaviour)
    count = behaviour.chunks
    return words if count is None or not words else [words[index % len(words)] for index in range(count)]


def _cut(text: str, behaviour: Behaviour) -> list[str]:
    size = behaviour.chunk_characters
    return _WORDS.findall(text) if size is None else [text[at : at + size] for at in range(0, len(text), size)]


def _said(text: str, prefill: str) -> int:
    """How much of `text` the beginning ends with already."""
    return next((length for length in range(len(text), 0, -1) if prefill.endswith(text[:length])), 0)


def _calls(question: Question) -> tuple[Call, ...]:
    """The tools that must be called or that the prompt names; the first one if it says just `tool`."""
    match question.must_use:
        case None:
            chosen = [tool for tool in question.tools if tool.name in question.prompt]
            if not chosen and re.search(r"\btool\b", question.prompt):
                chosen = list(question.tools[:1])
        case "*":
            chosen = list(question.tools[:1])
        case wanted:
            chosen = [tool for tool in question.tools if tool.name == wanted]
    return tuple(
        Call(f"call_{index}_{tool.name}", tool.name, _json(tool.schema, question.prompt))
        for index, tool in enumerate(chosen)
    )


def _json(schema: Mapping[str, Any], prompt: str) -> str:
    """An object that fits a JSON schema of the simpler sort; the prompt stands for its texts."""
    value = _value(schema, prompt) if schema.get("properties") else {"heard": prompt}
    return orjson.dumps(value).decode()


def _value(schema: Mapping[str, Any], prompt: str) -> object:
    if schema.get("enum"):
        return schema["enum"][0]
    number = _NUMBER.search(prompt)
    kind = schema.get("type")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            properties = schema.get("properties") or {}
            return {key: _value(inner, prompt) for key, inner in properties.items() if isinstance(inner, dict)}
        case "array":
            items = schema.get("items")
            return [_value(items, prompt)] if isinstance(items, dict) else []
        case "integer" | "number":
            return int(number.group()) if number else 1
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return prompt
