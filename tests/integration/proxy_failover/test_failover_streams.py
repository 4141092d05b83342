"""Streams that break after their first content: continued on another route where that is correct, and accounted for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from failover_callers import Heard, ask, until
from scripted_upstream import USAGE, Script, ScriptedUpstream, begun, event, refusal, streamed, whole

from proxy.dialects.sse import DONE

WORDS = ("one ", "two ", "three ", "four")
TEXT = "".join(WORDS)
CUT: Script = (*begun(*WORDS[:2]), "cut")
STALLED: Script = (*begun(*WORDS[:2]), "hold")
FAILED: Script = (*begun(*WORDS[:2]), b'data: {"error": {"message": "overloaded"}}\n\n', "cut")
PRICES = {"price": {"input": 1.0, "output": 10.0}}


def models(**fallback: Any) -> list[dict[str, Any]]:
    """Model `m` at alpha, which falls back to `n` at beta."""
    return [
        {"name": "m", "routes": [{"provider": "alpha"}], "fallbacks": ["n"]},
        {"name": "n", "routes": [{"provider": "beta"}], **PRICES, **fallback},
    ]


def whole_answer(heard: Heard) -> bool:
    return (heard.status, heard.text, heard.done) == (200, TEXT, True)


@pytest.mark.parametrize("script", [CUT, STALLED, FAILED], ids=["cut", "stalled", "error-frame"])
async def test_broken_stream_begins_again_elsewhere(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream, script: Script
) -> None:
    """Another route says the same again, and the caller gets the whole text once, with a clean end."""
    alpha.usual, beta.usual = script, streamed(*WORDS, model="their-n")
    gateway = await gateway_of(alpha, beta, models=models())
    heard = await ask(gateway, stream=True)
    assert whole_answer(heard)
    account = heard.account
    assert (account.provider, account.model, account.continued, account.attempts) == ("beta", "their-n", 1, 2)
    assert (account.finish, account.error) == ("stop", None)
    assert account.cost_usd == pytest.approx((10 * 1.0 + 4 * 10.0) / 1e6)
    assert beta.seen[0].fields["messages"] == [{"role": "user", "content": "hello"}]
    assert gateway.providers_health()["alpha"]["errors"] == 1


@pytest.mark.parametrize(
    ("kind", "last", "more"),
    [
        ("assistant", {"role": "assistant", "content": "one two"}, {}),
        ("prefix", {"role": "assistant", "content": "one two", "prefix": True}, {}),
        (
            "continue_final_message",
            {"role": "assistant", "content": "one two"},
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
    ],
)
async def test_model_that_can_continue_does(
    gateway_of: Any,
    alpha: ScriptedUpstream,
    beta: ScriptedUpstream,
    kind: str,
    last: dict[str, Any],
    more: dict[str, Any],
) -> None:
    """A model with prefill is given what was sent, and says only the rest."""
    alpha.usual, beta.usual = CUT, streamed(" ", *WORDS[2:])
    heard = await ask(await gateway_of(alpha, beta, models=models(prefill=kind)), stream=True)
    assert whole_answer(heard)
    fields = beta.seen[0].fields
    assert fields["messages"][-1] == last
    assert {name: fields[name] for name in more} == more
    assert heard.account.continued == 1


async def test_model_that_refuses_its_prefill_is_asked_plainly(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream
) -> None:
    """A configured prefill that the provider rejects costs a request, not the answer."""
    alpha.usual, beta.scripts = CUT, [refusal(400, "the last message must not be the assistant's")]
    beta.usual = streamed(*WORDS)
    heard = await ask(await gateway_of(alpha, beta, models=models(prefill="assistant")), stream=True)
    assert whole_answer(heard)
    assert [len(seen.fields["messages"]) for seen in beta.seen] == [2, 1]


async def test_model_that_continues_is_preferred(
    gateway_of: Any, upstream: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream
) -> None:
    """For a continuation a model with prefill comes before an earlier fallback without."""
    gamma = await upstream("gamma")
    alpha.usual, gamma.usual = CUT, streamed(" ", *WORDS[2:])
    entries = [
        {"name": "m", "routes": [{"provider": "alpha"}], "fallbacks": ["n", "o"]},
        {"name": "n", "routes": [{"provider": "beta"}]},
        {"name": "o", "routes": [{"provider": "gamma"}], "prefill": "assistant"},
    ]
    heard = await ask(await gateway_of(alpha, beta, gamma, models=entries), stream=True)
    assert whole_answer(heard)
    assert (heard.account.provider, len(beta.seen)) == ("gamma", 0)


async def test_continuation_that_breaks_is_continued(
    gateway_of: Any, upstream: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream
) -> None:
    """A second cut leads to a third provider; the last one is named and billed."""
    gamma = await upstream("gamma")
    alpha.usual, beta.usual, gamma.usual = CUT, (*begun(*WORDS[:3]), "cut"), streamed(*WORDS)
    heard = await ask(await gateway_of(alpha, beta, gamma), stream=True)
    assert whole_answer(heard)
    assert (heard.account.provider, heard.account.continued, heard.account.attempts) == ("gamma", 2, 3)


async def test_another_text_is_never_mixed_in(gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream) -> None:
    """Where nobody says the same again the stream ends in an error frame, with what was sent and no clean end."""
    alpha.usual, beta.usual = CUT, streamed("something ", "else")
    gateway = await gateway_of(alpha, beta)
    heard = await ask(gateway, stream=True)
    assert (heard.status, heard.error["code"]) == (200, "stream_cut")
    assert (DONE in heard.body, b"something" in heard.body) == (False, False)
    assert (heard.account.error, heard.account.continued) == ("stream_cut", 0)
    assert gateway.providers_health()["beta"]["fault"] is None


async def test_only_route_is_asked_again(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """With no other route the same one may say it again."""
    alpha.scripts, alpha.usual = [CUT], streamed(*WORDS)
    heard = await ask(await gateway_of(alpha), stream=True)
    assert whole_answer(heard)
    assert heard.account.attempts == 2


async def test_continuations_are_bounded(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """A route that is always cut is tried again twice, then the caller is told."""
    alpha.usual = CUT
    heard = await ask(await gateway_of(alpha), stream=True)
    assert (heard.error["code"], len(alpha.seen)) == ("stream_cut", 3)


async def test_no_continuation_where_none_is_wanted(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream
) -> None:
    """With `after_cut: error` a broken stream ends at once."""
    alpha.usual, beta.usual = CUT, streamed(*WORDS)
    heard = await ask(await gateway_of(alpha, beta, streams={"after_cut": "error"}), stream=True)
    assert (heard.error["code"], len(beta.seen)) == ("stream_cut", 0)


async def test_malformed_chunk_is_left_out_and_no_fault(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """The rest is delivered to its end, and the answer is accounted as a good one."""
    end = (event({}, "stop"), event(None, usage=USAGE), DONE, "cut")
    alpha.usual = (*begun(*WORDS[:2]), b'data: {"broken\n\n', *(event({"content": word}) for word in WORDS[2:]), *end)
    gateway = await gateway_of(alpha)
    heard = await ask(gateway, stream=True)
    assert whole_answer(heard)
    assert gateway.providers_health()["alpha"]["fault"] is None


async def test_usage_is_accounted_though_nobody_asked(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """The provider is asked for the stream's usage; the caller who did not ask gets no such chunk."""
    alpha.usual = streamed(*WORDS)
    heard = await ask(await gateway_of(alpha), stream=True)
    assert alpha.seen[0].fields["stream_options"] == {"include_usage": True}
    assert b'"usage"' not in heard.body
    assert heard.account.usage is not None
    assert heard.account.usage.output == 4
    assert heard.account.first_content_seconds is not None


async def test_provider_without_stream_options_is_not_asked_for_usage(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """`stream_usage: false` is for servers that refuse what they do not know."""
    section = {"name": "alpha", "kind": "openai", "base_url": alpha.base_url, "stream_usage": False}
    await ask(await gateway_of(section), stream=True)
    assert "stream_options" not in alpha.seen[0].fields


async def test_caller_gone_during_a_continuation_closes_everything(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream
) -> None:
    """A caller that leaves while the rest is being asked for closes that request, too."""
    alpha.usual, beta.usual = CUT, ("hold",)
    gateway = await gateway_of(alpha, beta, timeouts={"first_byte": "60s"})
    task = asyncio.create_task(ask(gateway, stream=True))
    await until(lambda: beta.seen)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(45):
        await beta.gone.wait()


async def test_stream_answered_whole_is_replayed(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """A provider that answers a stream's request with one document still gives the caller a stream."""
    alpha.usual = whole(TEXT)
    heard = await ask(await gateway_of(alpha), stream=True)
    assert whole_answer(heard)
    assert heard.account.usage is not None
