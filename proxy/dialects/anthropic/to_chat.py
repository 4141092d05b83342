"""A Messages request as a chat completion's request.

What tunes how Anthropic works (thinking, top_k, cache_control, service tier) is left out, and so is thinking of earlier
turns; what only Anthropic's own servers can do (their tools, containers, files) is refused.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from proxy.dialects.contract import NotTranslatableError

_REASONING_MODEL = re.compile(r"(^|/)(o[1-9]|gpt-[5-9])")
"""OpenAI's models that refuse `max_tokens` for `max_completion_tokens`, which other servers may not know."""
_REFUSED = ("container", "mcp_servers")
_CONTINUING = ("add_generation_prompt", "continue_final_message")
"""How `continuation.prefilled` asks some servers to go on; `prefix` of the last message asks others."""
_THINKING = frozenset(("thinking", "redacted_thinking"))

Fields = dict[str, Any]


def chat_request(fields: Fields, model: str, *, stream_usage: bool) -> Fields:
    """The body of `POST /chat/completions` for `model`. NotTranslatableError."""
    for name in _REFUSED:
        if fields.get(name):
            raise NotTranslatableError(f"{name}: this model's provider has nothing like it")
    wanted: Fields = {"model": model, "messages": _conversation(fields)}
    if fields.get("max_tokens") is not None:
        wanted["max_completion_tokens" if _REASONING_MODEL.search(model) else "max_tokens"] = fields["max_tokens"]
    for name, theirs in (("temperature", "temperature"), ("top_p", "top_p"), ("stop_sequences", "stop")):
        if fields.get(name) not in (None, []):
            wanted[theirs] = fields[name]
    match fields.get("metadata"):
        case {"user_id": str(user)}:
            wanted["user"] = user
    match fields.get("output_config"):
        case {"format": {"type": "json_schema", "schema": dict(schema)}}:
            described = {"name": "answer", "schema": schema, "strict": True}
            wanted["response_format"] = {"type": "json_schema", "json_schema": described}
    wanted |= _tools(fields)
    wanted |= {name: fields[name] for name in _CONTINUING if name in fields}
    if fields.get("stream") is True:
        wanted["stream"] = True
        if stream_usage:
            wanted["stream_options"] = {"include_usage": True}
    return wanted


def _tools(fields: Fields) -> Fields:
    tools = fields.get("tools") or []
    if not isinstance(tools, list):
        raise NotTranslatableError("tools: expected an array")
    if not tools:
        return {}
    found: Fields = {"tools": [_tool(tool, f"tools.{index}") for index, tool in enumerate(tools)]}
    match choice := fields.get("tool_choice"):
        case None:
            pass
        case {"type": "auto" | "none" as kind}:
            found["tool_choice"] = kind
        case {"type": "any"}:
            found["tool_choice"] = "required"
        case {"type": "tool", "name": str(name)}:
            found["tool_choice"] = {"type": "function", "function": {"name": name}}
        case _:
            raise NotTranslatableError("tool_choice: expected an object of type auto, any, tool or none")
    if isinstance(choice, dict) and choice.get("disable_parallel_tool_use") is True:
        found["parallel_tool_calls"] = False
    return found


def _tool(tool: Any, place: str) -> Fields:
    match tool:
        case {"name": str(name), "input_schema": dict(schema)} if tool.get("type") in (None, "custom"):
            function: Fields = {"name": name, "parameters": schema}
            if isinstance(tool.get("description"), str):
                function["description"] = tool["description"]
            if tool.get("strict") is True:
                function["strict"] = True
            return {"type": "function", "function": function}
    raise NotTranslatableError(f"{place}: this model's provider knows tools with name and input_schema only")


def _conversation(fields: Fields) -> list[Fields]:
    found: list[Fields] = []
    if system := _words(fields.get("system"), "system"):
        found.append({"role": "system", "content": system})
    for index, message in enumerate(fields["messages"]):
        place = f"messages.{index}"
        if not isinstance(message, dict):
            raise NotTranslatableError(f"{place}: expected an object")
        match message.get("role"):
            case "user":
                found += _user(message.get("content"), place)
            case "assistant":
                said = _assistant(message.get("content"), place)
                found += [one | {"prefix": True} for one in said] if message.get("prefix") is True else said
            case "system":
                found.append({"role": "system", "content": _words(message.get("content"), place)})
            case other:
                raise NotTranslatableError(f"{place}.role: unknown role {other!r}")
    return found


def _user(content: object, place: str) -> list[Fields]:
    """Results of tools first, one message each; images in them, for which a tool's message has no place, and the rest
    follow as the user's."""
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    results: list[Fields] = []
    parts: list[Fields] = []
    for index, block in enumerate(_list(content, place)):
        where = f"{place}.content.{index}"
        if isinstance(block, dict) and block.get("type") == "tool_result":
            result, images = _tool_result(block, where)
            results.append(result)
            parts += images
        else:
            parts.append(_part(block, where))
    if not parts:
        return results
    only_text = all(part["type"] == "text" for part in parts) and len(parts) == 1
    return [*results, {"role": "user", "content": parts[0]["text"] if only_text else parts}]


def _tool_result(block: Fields, place: str) -> tuple[Fields, list[Fields]]:
    identity, content = block.get("tool_use_id"), block.get("content")
    if not isinstance(identity, str):
        raise NotTranslatableError(f"{place}.tool_use_id: expected a string")
    if content is None or isinstance(content, str):
        return {"role": "tool", "tool_call_id": identity, "content": content or ""}, []
    parts = [_part(part, f"{place}.content.{index}") for index, part in enumerate(_list(content, place))]
    text = [part for part in parts if part["type"] == "text"]
    said = text[0]["text"] if len(text) == 1 else text or ""
    return {"role": "tool", "tool_call_id": identity, "content": said}, [part for part in parts if part not in text]


def _assistant(content: object, place: str) -> list[Fields]:
    if isinstance(content, str):
        return [{"role": "assistant", "content": content}]
    text: list[str] = []
    calls: list[Fields] = []
    for index, block in enumerate(_list(content, place)):
        match block:
            case {"type": "text", "text": str(said)}:
                text.append(said)
            case {"type": "tool_use", "id": str(identity), "name": str(name), "input": dict(given)}:
                function = {"name": name, "arguments": orjson.dumps(given).decode()}
                calls.append({"id": identity, "type": "function", "function": function})
            case {"type": str(kind)} if kind in _THINKING:
                pass
            case _:
                raise _unknown(block, f"{place}.content.{index}")
    if not text and not calls:
        return []
    message: Fields = {"role": "assistant", "content": "".join(text) if text else None}
    return [message | {"tool_calls": calls} if calls else message]


def _part(block: Any, place: str) -> Fields:
    match block:
        case {"type": "text", "text": str(text)} | {
            "type": "document",
            "source": {"type": "text", "data": str(text)},
        }:
            return {"type": "text", "text": text}
        case {"type": "image", "source": {"type": "base64", "media_type": str(media), "data": str(data)}}:
            return {"type": "image_url", "image_url": {"url": f"data:{media};base64,{data}"}}
        case {"type": "image", "source": {"type": "url", "url": str(url)}}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"type": "document", "source": {"type": "base64", "media_type": str(media), "data": str(data)}}:
            name = block.get("title")
            file = {
                "filename": name if isinstance(name, str) else "document.pdf",
                "file_data": f"data:{media};base64,{data}",
            }
            return {"type": "file", "file": file}
    raise _unknown(block, place)


def _words(content: object, place: str) -> str:
    """System text; blocks are paragraphs."""
    if content is None or isinstance(content, str):
        return content or ""
    said = [_part(block, f"{place}.{index}") for index, block in enumerate(_list(content, place))]
    if any(part["type"] != "text" for part in said):
        raise NotTranslatableError(f"{place}: expected text")
    return "\n\n".join(part["text"] for part in said)


def _list(content: object, place: str) -> list[Any]:
    if not isinstance(content, list):
        raise NotTranslatableError(f"{place}: expected a string or an array of blocks")
    return content


def _unknown(block: object, place: str) -> NotTranslatableError:
    kind = block.get("type") if isinstance(block, dict) else None
    if isinstance(kind, str):
        return NotTranslatableError(f"{place}: this model's provider cannot take this {kind}")
    return NotTranslatableError(f"{place}: expected an object with a type")
