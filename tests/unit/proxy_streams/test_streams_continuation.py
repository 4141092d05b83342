"""How a cut answer may be continued, and how a continuation is held to what was sent."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.call import Call, Operation
from proxy.dialects.continuation import Agreement, Kind, mode_of, modes, prefilled
from proxy.dialects.contract import Delta, Meaning, Sent, ToolDelta

USER = {"role": "user", "content": "q"}


def call(operation: Operation = Operation.CHAT, **fields: Any) -> Call:
    if operation is Operation.COMPLETIONS:
        fields.setdefault("prompt", "q")
    else:
        fields.setdefault("messages", [USER])
    return Call(operation, b"", {"model": "m", **fields}, "m", True, "r", "me")


def content(text: str = "", **fields: Any) -> Delta:
    return Delta(Meaning.CONTENT, text, **fields)


def sent(*deltas: Delta) -> Sent:
    kept = Sent()
    for delta in deltas:
        kept.add(delta)
    return kept


TEXT = (content("one "), content("two"))
TOOL = content(tools=(ToolDelta(0, "t", "f", '{"a'),))


@pytest.mark.parametrize(
    ("of", "deltas", "expected"),
    [
        (call(), TEXT, ("prefill", "restart")),
        (call(response_format={"type": "text"}), TEXT, ("prefill", "restart")),
        (call(stop=["END"]), TEXT, ("prefill", "restart")),
        (call(stop="owl"), TEXT, ("restart",)),
        (call(response_format={"type": "json_object"}), TEXT, ("restart",)),
        (call(response_format={"type": "json_schema"}), TEXT, ("restart",)),
        (call(), (content(" \n"),), ("restart",)),
        (call(), (TOOL,), ("restart",)),
        (call(), (content(reasoning="hm"), *TEXT), ("restart",)),
        (call(), (), ("restart",)),
        (call(n=2), TEXT, ()),
        (call(logprobs=True), TEXT, ()),
        (call(modalities=["text", "audio"]), TEXT, ()),
        (call(), (content("x", finish="stop"),), ()),
        (call(), (content("x", told=False),), ()),
        (call(Operation.COMPLETIONS), TEXT, ("prefill", "restart")),
        (call(Operation.COMPLETIONS, echo=True), TEXT, ("restart",)),
        (call(Operation.COMPLETIONS, prompt=["a", "b"]), TEXT, ()),
        (call(Operation.COMPLETIONS, prompt=[1, 2]), TEXT, ("restart",)),
        (call(Operation.MESSAGES), TEXT, ("prefill", "restart")),
        (call(Operation.MESSAGES, thinking={"type": "enabled", "budget_tokens": 1024}), TEXT, ("restart",)),
        (call(Operation.MESSAGES, stop_sequences=["two!"]), TEXT, ("restart",)),
    ],
)
def test_modes(of: Call, deltas: tuple[Delta, ...], expected: tuple[str, ...]) -> None:
    """A text may be prefilled where nothing else was begun and no schema or stop sequence would be broken; whatever has
    one choice, no finish and no part that was not understood may be restarted."""
    assert modes(of, sent(*deltas)) == expected


@pytest.mark.parametrize(
    ("kind", "message", "beside"),
    [
        ("assistant", {"role": "assistant", "content": "one two"}, {}),
        ("prefix", {"role": "assistant", "content": "one two", "prefix": True}, {}),
        ("prefix_repeated", {"role": "assistant", "content": "one two", "prefix": True}, {}),
        (
            "continue_final_message",
            {"role": "assistant", "content": "one two"},
            {"add_generation_prompt": False, "continue_final_message": True},
        ),
    ],
)
def test_prefilled_kinds(kind: Kind, message: dict[str, Any], beside: dict[str, Any]) -> None:
    """Each kind of model gets the text in its own way, without the white space at its end."""
    asked = call(temperature=0)
    continued = prefilled(asked, sent(*TEXT, content(" \n")), kind)
    assert continued.fields == {"model": "m", "temperature": 0, "messages": [USER, message], **beside}
    assert orjson.loads(continued.body) == continued.fields
    assert asked.fields["messages"] == [USER]
    assert mode_of(kind) == ("restart" if kind == "prefix_repeated" else "prefill")


@pytest.mark.parametrize(
    ("own", "merged"),
    [
        ("Sure: ", "Sure: one two"),
        ([{"type": "text", "text": "Sure: "}], [{"type": "text", "text": "Sure: one two"}]),
        ([], [{"type": "text", "text": "one two"}]),
        (None, "one two"),
    ],
)
def test_prefilled_goes_on_after_the_caller_s_own_beginning(own: object, merged: object) -> None:
    """A caller that gave a beginning of its own gets the rest after both."""
    asked = call(messages=[USER, {"role": "assistant", "content": own, "name": "x"}])
    last = prefilled(asked, sent(*TEXT), "assistant").fields["messages"][-1]
    assert last == {"role": "assistant", "content": merged, "name": "x"}


def test_prefilled_text_completion_lengthens_the_prompt() -> None:
    """The older API is continued by its prompt."""
    assert prefilled(call(Operation.COMPLETIONS), sent(*TEXT), "assistant").fields["prompt"] == "qone two"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(("budget", "left"), [(10, 8), (2, 1), (1, 1)])
def test_prefilled_lowers_the_budget(name: str, budget: int, left: int) -> None:
    """What was sent counts against the caller's limit, a token for each delta, and one token is always left."""
    assert prefilled(call(Operation.CHAT, **{name: budget}), sent(*TEXT), "assistant").fields[name] == left


def say(agreement: Agreement, *deltas: Delta) -> str | None:
    """The text that gets through, or None if the continuation was given up."""
    said = ""
    for delta in deltas:
        rest = agreement.rest(delta)
        if rest is None:
            return None
        said += rest.text
    return said


PIECES = st.lists(st.text(max_size=5), max_size=8)


@given(PIECES, PIECES, st.lists(st.integers(0, 60), max_size=8))
def test_agreement_lets_exactly_the_rest_through(before: list[str], after: list[str], cuts: list[int]) -> None:
    """Whatever was sent and however the same text comes again, exactly what follows gets through."""
    old, new = "".join(before), "".join(after)
    whole = old + new
    bounds = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    pieces = [content(whole[begin:end]) for begin, end in itertools.pairwise(bounds)]
    agreement = Agreement(sent(*map(content, before)), "restart")
    assert say(agreement, *pieces) == new
    assert agreement.agreed


@given(st.text(min_size=1, max_size=20), st.text(max_size=20), st.integers(1, 5))
def test_agreement_gives_up_at_the_first_difference(old: str, other: str, size: int) -> None:
    """Nothing of another text gets through, and neither does an end before all has been said again."""
    agreement = Agreement(sent(content(old)), "restart")
    pieces = [content(other[at : at + size]) for at in range(0, len(other), size)]
    said = say(agreement, *pieces, Delta(Meaning.DONE))
    if other.startswith(old):
        assert said == other[len(old) :]
    else:
        assert said is None


def test_agreement_of_a_prefill_holds_back_white_space() -> None:
    """White space that was sent but not prefilled must come first, and is not sent twice."""
    assert say(Agreement(sent(content("one \n")), "prefill"), content(" "), content("\ntwo")) == "two"
    assert say(Agreement(sent(content("one \n")), "prefill"), content("two")) is None
    assert say(Agreement(sent(content("one")), "prefill"), content(" two")) == " two"


def test_agreement_of_a_prefill_keeps_new_reasoning_out() -> None:
    """A model that thinks before it continues a text does not put its thoughts into the middle of it."""
    agreement = Agreement(sent(content("one")), "prefill")
    rest = agreement.rest(content(reasoning="hm"))
    assert rest is not None
    assert (rest.meaning, rest.reasoning) == (Meaning.NOTHING, "")
    assert say(agreement, content(" two", reasoning="hm")) == " two"


def test_agreement_of_tool_calls_keeps_the_first_ids() -> None:
    """Names and arguments must come again; the rest of the arguments goes through without an id of its own."""
    agreement = Agreement(sent(TOOL), "restart")
    again = content(tools=(ToolDelta(0, "other", "f", ""),))
    first, second = agreement.rest(again), agreement.rest(content(tools=(ToolDelta(0, arguments='{"a":1'),)))
    assert first is not None
    assert second is not None
    assert (first.meaning, first.tools) == (Meaning.NOTHING, ())
    assert second.tools == (ToolDelta(0, arguments='":1'),)
    new = agreement.rest(content(tools=(ToolDelta(1, "u", "g", ""),)))
    assert new is not None
    assert new.tools == (ToolDelta(1, "u", "g", ""),)


@pytest.mark.parametrize(
    "delta",
    [
        content(tools=(ToolDelta(0, "t", "g", ""),)),
        content(tools=(ToolDelta(0, "t", "f", "[1]"),)),
        content(tools=(ToolDelta(1, "t", "f", ""),)),
        content("text"),
        content(reasoning="hm"),
        content(finish="stop"),
        content(told=False),
    ],
)
def test_agreement_of_tool_calls_is_strict(delta: Delta) -> None:
    """Another name, other arguments, another call, a text, an early finish: each ends the agreement."""
    assert Agreement(sent(TOOL), "restart").rest(delta) is None


def test_agreement_asks_for_the_reasoning_again() -> None:
    """Text may not come before all of the reasoning has been said again."""
    agreement = Agreement(sent(content(reasoning="hm, so"), content("one")), "restart")
    assert say(agreement, content(reasoning="hm,"), content(reasoning=" so"), content("one two")) == " two"
    assert say(Agreement(sent(content(reasoning="hm, so")), "restart"), content(reasoning="hm"), content("one")) is None
