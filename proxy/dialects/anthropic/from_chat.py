"""A chat completion's request as a Messages request.

What only tunes how an answer is made (penalties, seed, reasoning effort, service tier) is left out where Anthropic has
no word for it; what would change the answer's form (several choices, log probabilities, sound) is refused.
"""

from __future__ import annotations

from typing import Any

import orjson

from proxy.dialects import nesting
from proxy.dialects.anthropic.terms import tool_id
from proxy.dialects.contract import NotTranslatableError

_JSON_ONLY = "Answer with a single JSON object and nothing else: no words before or after it, no code fence."
_JSON_LIKE = "Answer with JSON that conforms to this JSON Schema and nothing else, no code fence: "
_AS_THEY_ARE = ("thinking", "top_k", "cache_control")
"""Anthropic's own fields, for callers who know where their request goes."""
_OPEN_SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}

Fields = dict[str, Any]


def messages_request(fields: Fields, model: str, max_tokens: int) -> Fields:
    """The body of `POST /messages` for `model`; `max_tokens` if the request gives none. NotTranslatableError.

    System and developer messages become `system`, wherever they stood. A strict `json_schema` becomes a structured
    output; `json_object`, and a schema that is not strict, become an instruction.
    """
    _refuse_other_forms(fields)
    system, messages = _conversation(fields["messages"])
    wanted: Fields = {"model": model, "max_tokens": _limit(fields, max_tokens), "messages": messages}
    wanted |= {name: fields[name] for name in _AS_THEY_ARE if fields.get(name) is not None}
    schema, instruction = _form(fields.get("response_format"))
    if schema is not None:
        wanted["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    if instruction:
        system.append({"type": "text", "text": instruction})
    if not messages:
        if not system:
            raise NotTranslatableError("messages: there is nothing to answer")
        messages.append({"role": "user", "content": system})
    elif system:
        wanted["system"] = system
    wanted |= _sampling(fields) | _tools(fields, messages)
    if _answers_tools(messages):
        wanted.pop("thinking", None)
    if isinstance(fields.get("user"), str):
        wanted["metadata"] = {"user_id": fields["user"]}
    if fields.get("stream") is True:
        wanted["stream"] = True
    return wanted


def _refuse_other_forms(fields: Fields) -> None:
    modalities = fields.get("modalities")
    asked = {
        "n": fields.get("n") not in (None, 1),
        "logprobs": bool(fields.get("logprobs") or fields.get("top_logprobs")),
        "logit_bias": bool(fields.get("logit_bias")),
        "audio": bool(fields.get("audio")) or modalities not in (None, ["text"]),
        "functions": bool(fields.get("functions")),
        "web_search_options": fields.get("web_search_options") is not None,
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise NotTranslatableError(f"{name}: this model's provider has nothing like it")


def _limit(fields: Fields, otherwise: int) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        value = fields.get(name)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise NotTranslatableError(f"{name}: expected a positive whole number")
            return value
    return otherwise


def _sampling(fields: Fields) -> Fields:
    """Temperature within Anthropic's 0 to 1, or else top_p: many of its models refuse both at once, the newest ones any
    value but the default."""
    found: Fields = {}
    temperature, top_p = _number(fields, "temperature"), _number(fields, "top_p")
    if temperature is not None:
        if temperature != 1:
            found["temperature"] = min(1.0, max(0.0, temperature))
    elif top_p is not None and top_p != 1:
        found["top_p"] = top_p
    stop = fields.get("stop")
    sequences = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(sequences, list) or not all(isinstance(one, str) for one in sequences):
        raise NotTranslatableError("stop: expected a string or an array of strings")
    if any(one and not one.strip() for one in sequences):
        raise NotTranslatableError("stop: this model's provider knows no stop sequences of white space only")
    if sequences := [one for one in sequences if one]:
        found["stop_sequences"] = sequences
    return found


def _number(fields: Fields, name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise NotTranslatableError(f"{name}: expected a number")
    return float(value)


def _form(wanted: object) -> tuple[Fields | None, str]:
    """The schema that the answer must keep to, or the instruction to ask for it with."""
    if wanted is None:
        return None, ""
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    match kind:
        case "text":
            return None, ""
        case "json_object":
            return None, _JSON_ONLY
        case "json_schema":
            assert isinstance(wanted, dict)
            described = wanted.get("json_schema")
            schema = described.get("schema") if isinstance(described, dict) else None
            if not isinstance(described, dict) or not isinstance(schema, dict):
                raise NotTranslatableError("response_format.json_schema.schema: expected an object")
            if described.get("strict") is True:
                return schema, ""
            return None, _JSON_LIKE + orjson.dumps(schema).decode()
    raise NotTranslatableError(f"response_format.type: expected text, json_object or json_schema, not {kind!r}")


def _tools(fields: Fields, messages: list[Fields]) -> Fields:
    tools = fields.get("tools") or []
    if not isinstance(tools, list):
        raise NotTranslatableError("tools: expected an array")
    if not tools:
        return _tools_of_the_past(messages)
    found: Fields = {"tools": [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]}
    choice = _tool_choice(fields.get("tool_choice"))
    if fields.get("parallel_tool_calls") is False and choice != {"type": "none"}:
        choice = (choice or {"type": "auto"}) | {"disable_parallel_tool_use": True}
    if choice is not None:
        found["tool_choice"] = choice
    return found


def _tools_of_the_past(messages: list[Fields]) -> Fields:
    """Anthropic refuses tool calls in a conversation without tools: those that were called are named, to no use."""
    names = dict.fromkeys(
        block["name"] for message in messages for block in message["content"] if block["type"] == "tool_use"
    )
    if not names:
        return {}
    return {
        "tools": [{"name": name, "input_schema": _OPEN_SCHEMA} for name in names],
        "tool_choice": {"type": "none"},
    }


def _answers_tools(messages: list[Fields]) -> bool:
    """Whether results of tools come last. A model that thought when it called them wants its signed thoughts back,
    which a chat completion cannot carry."""
    return any(block["type"] == "tool_result" for block in messages[-1]["content"])


def _tool(tool: object, place: str) -> Fields:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(function, dict):
        raise NotTranslatableError(f"{place}: this model's provider knows tools of type function only")
    if not isinstance(function.get("name"), str):
        raise NotTranslatableError(f"{place}.function.name: expected a string")
    schema = function.get("parameters") or _OPEN_SCHEMA
    if not isinstance(schema, dict):
        raise NotTranslatableError(f"{place}.function.parameters: expected an object")
    found: Fields = {"name": function["name"], "input_schema": {"type": "object"} | schema}
    if isinstance(function.get("description"), str) and function["description"]:
        found["description"] = function["description"]
    if function.get("strict") is True:
        found["strict"] = True
    if isinstance(tool.get("cache_control"), dict):
        found["cache_control"] = tool["cache_control"]
    return found


def _tool_choice(choice: object) -> Fields | None:
    match choice:
        case None:
            return None
        case "auto" | "none":
            return {"type": choice}
        case "required":
            return {"type": "any"}
        case {"type": "function", "function": {"name": str(name)}}:
            return {"type": "tool", "name": name}
    raise NotTranslatableError("tool_choice: expected auto, none, required or a function")


def _conversation(given: object) -> tuple[list[Fields], list[Fields]]:
    """System blocks, and messages whose turns alternate, for all results of one turn's tool calls belong together."""
    system: list[Fields] = []
    messages: list[Fields] = []
    for index, message in enumerate(given if isinstance(given, list) else ()):
        place = f"messages[{index}]"
        if not isinstance(message, dict):
            raise NotTranslatableError(f"{place}: expected an object")
        match message.get("role"):
            case "system" | "developer":
                system += _blocks(message.get("content"), place)
                continue
            case "user":
                role, blocks = "user", _blocks(message.get("content"), place)
            case "tool":
                role, blocks = "user", [_tool_result(message, place)]
            case "assistant":
                role, blocks = "assistant", _assistant(message, place)
            case other:
                raise NotTranslatableError(f"{place}.role: unknown role {other!r}")
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        elif blocks:
            messages.append({"role": role, "content": blocks})
    _trim_prefill(messages)
    return system, messages


def _trim_prefill(messages: list[Fields]) -> None:
    """A last message of the assistant's is continued; Anthropic refuses it if it ends in white space."""
    if messages and messages[-1]["role"] == "assistant" and (last := messages[-1]["content"][-1])["type"] == "text":
        text = last["text"].rstrip()
        messages[-1]["content"][-1:] = [last | {"text": text}] if text else []
        if not messages[-1]["content"]:
            messages.pop()


def _assistant(message: Fields, place: str) -> list[Fields]:
    blocks = _blocks(message.get("content"), place)
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        blocks.append({"type": "text", "text": refusal})
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise NotTranslatableError(f"{place}.tool_calls: expected an array")
    return blocks + [_tool_use(call, f"{place}.tool_calls[{index}]") for index, call in enumerate(calls)]


def _tool_use(call: object, place: str) -> Fields:
    match call:
        case {"id": str(identity), "function": {"name": str(name), "arguments": str(arguments)}}:
            try:
                given = nesting.loads(arguments) if arguments.strip() else {}
            except ValueError:
                given = None
            if not isinstance(given, dict):
                raise NotTranslatableError(f"{place}.function.arguments: expected a JSON object")
            return {"type": "tool_use", "id": tool_id(identity), "name": name, "input": given}
    raise NotTranslatableError(f"{place}: expected a function's call with id, name and arguments")


def _tool_result(message: Fields, place: str) -> Fields:
    identity = message.get("tool_call_id")
    if not isinstance(identity, str):
        raise NotTranslatableError(f"{place}.tool_call_id: expected a string")
    result: Fields = {"type": "tool_result", "tool_use_id": tool_id(identity)}
    if content := _blocks(message.get("content"), place):
        result["content"] = content
    return result


def _blocks(content: object, place: str) -> list[Fields]:
    """Content as blocks; Anthropic refuses empty text, which says nothing."""
    if content is None:
        return []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise NotTranslatableError(f"{place}.content: expected a string or an array of parts")
    blocks = (_block(part, f"{place}.content[{index}]") for index, part in enumerate(parts))
    return [block for block in blocks if block is not None]


def _block(part: object, place: str) -> Fields | None:
    match part:
        case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
            block: Fields | None = {"type": "text", "text": text} if text else None
        case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
            block = {"type": "image", "source": _source(url)}
        case {"type": "file", "file": {"file_data": str(data)}} if data.startswith("data:application/pdf;"):
            block = {"type": "document", "source": _source(data)}
        case {"type": str(kind)}:
            raise NotTranslatableError(f"{place}: this model's provider cannot take this {kind}")
        case _:
            raise NotTranslatableError(f"{place}: expected an object with a type")
    if block is not None and isinstance(part, dict) and isinstance(part.get("cache_control"), dict):
        block["cache_control"] = part["cache_control"]
    return block


def _source(url: str) -> Fields:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    head, _, data = url[5:].partition(",")
    media_type, _, coding = head.partition(";")
    if coding != "base64":
        raise NotTranslatableError("a data: URL must be base64")
    return {"type": "base64", "media_type": media_type, "data": data}
