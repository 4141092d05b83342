"""Tests of JSON that is nested too deeply to be written again."""

from __future__ import annotations

import orjson
import pytest

from proxy.dialects import nesting, openai
from proxy.dialects.anthropic.answers import parsed_message, tool_block
from proxy.dialects.anthropic.decoder import MessagesDecoder
from proxy.dialects.anthropic.from_chat import messages_request
from proxy.dialects.contract import MalformedError, Meaning, NotTranslatableError

DEEP = '{"a":' * 300 + "1" + "}" * 300


def test_what_is_deep_enough_to_be_written_again_is_read() -> None:
    """200 levels are read, and as many brackets as one likes beside each other; a 201st level is not."""
    assert nesting.loads(b"[" * 200 + b"]" * 200)
    assert len(nesting.loads(b"[" + b",".join([b'{"a":[]}'] * 1000) + b"]")) == 1000
    with pytest.raises(ValueError, match="nested deeper than 200 levels"):
        nesting.loads(b"[" * 201 + b"]" * 201)


def test_arguments_of_a_tool_that_are_too_deep_are_refused() -> None:
    """A tool call's arguments, which are a text in a chat, are refused as a request and no block of an answer."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": DEEP}}
    with pytest.raises(NotTranslatableError):
        messages_request({"messages": [{"role": "assistant", "tool_calls": [call]}]}, "claude", 10)
    assert tool_block("1", "f", DEEP) is None
    assert tool_block("1", "f", '{"a":1}') == {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}


def test_a_message_that_is_too_deep_is_the_providers_fault() -> None:
    """A provider's message that could not be written again counts as one that was not understood."""
    block = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
    message = orjson.dumps({"type": "message", "stop_reason": "tool_use", "content": [block]})
    assert parsed_message(message)["content"] == [block]
    with pytest.raises(MalformedError):
        parsed_message(message.replace(b"{}", DEEP.encode()))
    with pytest.raises(MalformedError):
        openai.whole_of(b'{"choices": [{"message": {"content": "hi"}, "x": ' + DEEP.encode() + b"}]}")


def test_a_tool_call_in_a_stream_that_is_too_deep_is_malformed() -> None:
    """An Anthropic stream's tool call whose input could not be written again is left out as malformed."""
    start = (
        '{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"a","name":"b","input":%s}}'
    )
    for given, meaning in ((DEEP, Meaning.MALFORMED), ('{"a":1}', Meaning.CONTENT), ("null", Meaning.CONTENT)):
        event = b"event: content_block_start\ndata: " + (start % given).encode() + b"\n\n"
        assert MessagesDecoder(native=False).read(event).meaning is meaning
