"""How an answer that was cut after its beginning had been sent can come to its true end somewhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import orjson

from proxy.call import Call, Operation
from proxy.dialects.contract import Delta, Meaning, Sent, ToolDelta

Mode = Literal["prefill", "restart"]
"""`prefill`: the request carries what was sent as the assistant's beginning, and the stream says what follows;
`restart`: the stream must say all of what was sent again before it counts."""

Kind = Literal["assistant", "prefix", "prefix_repeated", "continue_final_message"]
"""How a model takes the assistant's beginning: as the last message (Anthropic), with `prefix: true` (DeepSeek),
likewise but said again in the answer (Mistral), with `continue_final_message` (vLLM)."""

_BUDGETS = ("max_tokens", "max_completion_tokens")


def modes(call: Call, sent: Sent) -> tuple[Mode, ...]:
    """How the rest of this answer may be asked for, the better way first; empty: it cannot be continued correctly."""
    if sent.finish is not None or not sent.told or call.choices > 1 or _unrepeatable(call.fields):
        return ()
    return ("prefill", "restart") if _can_prefill(call, sent) else ("restart",)


def mode_of(kind: Kind) -> Mode:
    """What a stream is held to that a `prefilled` request was sent for."""
    return "restart" if kind == "prefix_repeated" else "prefill"


def prefilled(call: Call, sent: Sent, kind: Kind) -> Call:
    """The call with what was sent as the assistant's beginning, after the caller's own if it gave one.

    Only for calls whose `modes` have "prefill". White space at the end is held back, for Anthropic refuses it and other
    models continue it badly; `Agreement` sees that it comes. Token limits are lowered by what was sent, to 1 at least:
    a delta counts as one token.
    """
    text, fields = sent.text.rstrip(), dict(call.fields)
    for name in _BUDGETS:
        budget = fields.get(name)
        if isinstance(budget, int) and not isinstance(budget, bool):
            fields[name] = max(1, budget - sent.deltas)
    if call.operation is Operation.COMPLETIONS:
        fields["prompt"] = fields["prompt"] + text
        return call._replace(fields=fields, body=orjson.dumps(fields))
    messages = list(fields["messages"])
    last = messages[-1] if messages else {}
    if _is_prefill(last):
        messages[-1] = {**last, "content": _merged(last.get("content"), text)}
    else:
        messages.append({"role": "assistant", "content": text})
    if kind in ("prefix", "prefix_repeated"):
        messages[-1] = {**messages[-1], "prefix": True}
    elif kind == "continue_final_message":
        fields |= {"add_generation_prompt": False, "continue_final_message": True}
    fields["messages"] = messages
    return call._replace(fields=fields, body=orjson.dumps(fields))


class Agreement:
    """Holds a continuing stream to what was sent: what it says again is taken away, what it says otherwise ends it."""

    __slots__ = ("_reasoning", "_silent", "_text", "_tools", "agreed")

    def __init__(self, sent: Sent, mode: Mode) -> None:
        restart = mode == "restart"
        text = sent.text
        self._text = _Said(text if restart else text[len(text.rstrip()) :])
        self._reasoning = _Said(sent.reasoning if restart else "")
        self._tools = {index: _SaidTool(tool) for index, tool in sent.tools.items()} if restart else {}
        self._silent = not restart
        """A model may reason anew before it continues a text; the reader was sent the text without, and keeps it so."""
        self.agreed = False
        """Whether all of it has been said again, so that everything from now on is the rest."""
        self._look()

    def rest(self, delta: Delta) -> Delta | None:
        """What the caller has not been sent yet of it; None at the first difference, after which it must be given up.

        Nothing new may come before all of the old has been said again, and a finish or an end neither.
        """
        if self._silent and delta.reasoning:
            delta = replace(delta, reasoning="")
            if not (delta.text or delta.tools or delta.finish):
                delta = replace(delta, meaning=Meaning.NOTHING)
        if not delta.told:
            return None
        if self.agreed:
            return delta
        text, reasoning = self._text.beyond(delta.text), self._reasoning.beyond(delta.reasoning)
        tools = self._beyond(delta.tools)
        if text is None or reasoning is None or tools is None:
            return None
        self._look()
        new = bool(text or reasoning or tools or delta.finish)
        if not self.agreed and (new or delta.meaning is Meaning.DONE):
            return None
        meaning = Meaning.NOTHING if delta.meaning is Meaning.CONTENT and not new else delta.meaning
        return replace(delta, meaning=meaning, text=text, reasoning=reasoning, tools=tools)

    def _look(self) -> None:
        self.agreed = self._text.whole and self._reasoning.whole and all(tool.whole for tool in self._tools.values())

    def _beyond(self, parts: tuple[ToolDelta, ...]) -> tuple[ToolDelta, ...] | None:
        rest = []
        for part in parts:
            known = self._tools.get(part.index)
            beyond = part if known is None else known.beyond(part)
            if beyond is None:
                return None
            if known is None or beyond.arguments:
                rest.append(beyond)
        return tuple(rest)


class _Said:
    """A text that must be said again."""

    __slots__ = ("_at", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    @property
    def whole(self) -> bool:
        return self._at == len(self._text)

    def beyond(self, piece: str) -> str | None:
        """What of the next piece goes beyond the text; None if it differs."""
        length = min(len(piece), len(self._text) - self._at)
        if not self._text.startswith(piece[:length], self._at):
            return None
        self._at += length
        return piece[length:]


class _SaidTool:
    """A tool call that must be made again; the caller keeps the id that it knows."""

    __slots__ = ("_arguments", "_name", "_named")

    def __init__(self, tool: ToolDelta) -> None:
        self._name = tool.name
        self._named = tool.name is None
        self._arguments = _Said(tool.arguments)

    @property
    def whole(self) -> bool:
        return self._named and self._arguments.whole

    def beyond(self, part: ToolDelta) -> ToolDelta | None:
        if part.name is not None:
            if part.name != self._name:
                return None
            self._named = True
        arguments = self._arguments.beyond(part.arguments)
        return None if arguments is None else ToolDelta(part.index, arguments=arguments)


def _unrepeatable(fields: dict[str, Any]) -> bool:
    """Whether an answer has parts that another one could never agree with."""
    modalities = fields.get("modalities")
    return bool(fields.get("logprobs")) or (isinstance(modalities, list) and "audio" in modalities)


def _can_prefill(call: Call, sent: Sent) -> bool:
    """Text only; no schema, for a server that enforces one would begin it anew; no stop sequence that the cut may have
    parted, for the server would not see its other half."""
    fields, text = call.fields, sent.text
    if not text.strip() or sent.reasoning or sent.tools or _may_stop_across(fields, text):
        return False
    match call.operation:
        case Operation.COMPLETIONS:
            return isinstance(fields.get("prompt"), str) and not fields.get("echo") and not fields.get("suffix")
        case Operation.CHAT:
            form = fields.get("response_format")
            return form is None or (isinstance(form, dict) and form.get("type") == "text")
        case Operation.MESSAGES:
            thinking = fields.get("thinking")
            thinks = isinstance(thinking, dict) and thinking.get("type") != "disabled"
            return not thinks and not fields.get("output_format") and not fields.get("output_config")
        case _:
            return False


def _may_stop_across(fields: dict[str, Any], text: str) -> bool:
    given = fields.get("stop") or fields.get("stop_sequences") or ()
    stops = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    return any(
        text.endswith(stop[:length]) for stop in stops if isinstance(stop, str) for length in range(1, len(stop))
    )


def _is_prefill(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant" and not message.get("tool_calls")


def _merged(content: object, text: str) -> object:
    """The caller's own beginning, a string or parts, and then `text`."""
    if not isinstance(content, list):
        return (content if isinstance(content, str) else "") + text
    last = content[-1] if content else None
    if isinstance(last, dict) and last.get("type") == "text" and isinstance(last.get("text"), str):
        return [*content[:-1], {**last, "text": last["text"] + text}]
    return [*content, {"type": "text", "text": text}]
