"""Each fault that a provider can have before its first content, over real sockets, streaming and not."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from failover_callers import ask, until
from scripted_upstream import RESET, SILENT, Script, ScriptedUpstream, begun, event, http, refusal, streamed, whole

from proxy.call import Operation
from proxy.dialects.sse import DONE

BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def good(stream: bool, text: str = "fine") -> Script:
    return streamed(text) if stream else whole(text)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (refusal(429, headers={"retry-after": "1"}), "quota"),
        (refusal(429), "quota"),
        (refusal(500), "outage"),
        (refusal(503), "outage"),
        (refusal(401), "auth"),
        (RESET, "network"),
        (SILENT, "timeout"),
        (http(200, b"<html>hello</html>"), "malformed"),
        (http(302, b"", {"location": "http://127.0.0.1:9/v1"}), "malformed"),
    ],
    ids=["429-retry-after", "429", "500", "503", "401", "reset", "silent", "nonsense", "redirect"],
)
async def test_fault_is_failed_over(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream, script: Script, fault: str, stream: bool
) -> None:
    """The next provider answers at once; the fault gets its class, and the account names who answered."""
    alpha.usual, beta.usual = script, good(stream)
    gateway = await gateway_of(alpha, beta)
    heard = await ask(gateway, stream=stream)
    assert (heard.status, heard.text, heard.provider) == (200, "fine", "beta")
    assert gateway.providers_health()["alpha"]["fault"] == fault
    account = heard.account
    assert (account.provider, account.model, account.error) == ("beta", "served-model", None)
    assert (account.attempts, account.finish) == (len(alpha.seen) + 1, "stop")
    assert account.usage is not None
    assert (account.usage.input, account.usage.output) == (10, 4)


@pytest.mark.parametrize(
    "script",
    [
        (begun()[0], event({"role": "assistant"}), "hold"),
        (begun()[0], b": ping\n\n", "hold"),
        (begun()[0], event({"role": "assistant"}), "cut"),
        (begun()[0], b'data: {"error": {"message": "overloaded"}}\n\n', "cut"),
        (begun()[0], DONE, "cut"),
    ],
    ids=["late-first-token", "only-pings", "cut-before-content", "error-frame", "nothing"],
)
async def test_stream_without_content_is_failed_over(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream, script: Script
) -> None:
    """Headers alone promise nothing: until the first content the next provider can answer instead."""
    alpha.usual = script
    gateway = await gateway_of(alpha, beta)
    heard = await ask(gateway, stream=True)
    assert (heard.text, heard.provider, heard.done) == ("beta answers ", "beta", True)


@BOTH_WAYS
@pytest.mark.parametrize("script", [refusal(500), RESET, refusal(429)], ids=["500", "reset", "429"])
async def test_fault_that_passes_is_retried_on_the_same_route(
    gateway_of: Any, alpha: ScriptedUpstream, script: Script, stream: bool
) -> None:
    """With nobody else to ask, the route is tried again after a pause, and the caller notices nothing."""
    alpha.scripts, alpha.usual = [script, script], good(stream)
    heard = await ask(await gateway_of(alpha), stream=stream)
    assert (heard.status, heard.text) == (200, "fine")
    assert heard.account.attempts == len(alpha.seen) == 3


@BOTH_WAYS
async def test_outage_for_good_is_told_after_bounded_rounds(
    gateway_of: Any, alpha: ScriptedUpstream, stream: bool
) -> None:
    """One try and five more, then the provider's own words, and the caller's client shall not begin anew."""
    alpha.usual = refusal(503, "we are down")
    heard = await ask(await gateway_of(alpha), stream=stream)
    assert (heard.status, heard.error["message"], heard.retryable) == (503, "we are down", False)
    assert len(alpha.seen) == heard.account.attempts == 6
    assert heard.account.error == "upstream_error"
    assert heard.account.cost_usd is None


async def test_retry_after_is_honoured(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """A provider that asks for half a second is left alone for so long, though the usual pause is shorter."""
    alpha.scripts, alpha.usual = [refusal(503, headers={"retry-after-ms": "500"})], whole("fine")
    assert (await ask(await gateway_of(alpha))).text == "fine"
    assert alpha.seen[1].at - alpha.seen[0].at >= 0.49


async def test_long_retry_after_is_told_not_waited_for(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """A provider that wants to be left alone for longer than allowed is not waited for; the caller is told how long."""
    alpha.usual = refusal(429, "slow down", {"retry-after": "120"})
    heard = await ask(await gateway_of(alpha))
    assert (heard.status, len(alpha.seen), heard.retryable) == (429, 1, False)
    assert heard.headers == {b"retry-after": b"120"}


@BOTH_WAYS
async def test_silent_route_is_never_asked_twice(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream, stream: bool
) -> None:
    """Two silent providers cost two limits, and the caller hears of a timeout."""
    alpha.usual = beta.usual = SILENT
    heard = await ask(await gateway_of(alpha, beta), stream=stream)
    assert (heard.status, heard.error["code"], heard.retryable) == (504, "upstream_timeout", False)
    assert (len(alpha.seen), len(beta.seen)) == (1, 1)


async def test_one_deadline_over_all(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """However many rounds were left, the total limit ends the request."""
    alpha.usual = refusal(503)
    limits = {"connect": "5s", "first_byte": "1s", "answer": "1s", "idle": "1s", "total": "1s"}
    began = asyncio.get_running_loop().time()
    heard = await ask(
        await gateway_of(alpha, timeouts=limits, retry={"pause_initial": "300ms", "pause_max": "10s", "rounds": 50})
    )
    assert heard.status == 503
    assert asyncio.get_running_loop().time() - began < 1.5
    assert 2 <= len(alpha.seen) <= 3


@BOTH_WAYS
@pytest.mark.parametrize("status", [400, 404, 422])
async def test_callers_own_error_is_final(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream, status: int, stream: bool
) -> None:
    """A 400, 404 or 422 goes to the caller as it came; nobody else is asked, and no circuit minds."""
    alpha.usual = refusal(status, "this is wrong", param="messages")
    gateway = await gateway_of(alpha, beta)
    heard = await ask(gateway, stream=stream)
    assert (heard.status, heard.error["message"], heard.error["param"]) == (status, "this is wrong", "messages")
    assert (len(alpha.seen), len(beta.seen)) == (1, 0)
    assert gateway.providers_health()["alpha"]["fault"] is None
    assert heard.account.error == "request"


@BOTH_WAYS
async def test_refused_content_is_final(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream, stream: bool
) -> None:
    """A content filter's refusal is not taken to somebody who may be laxer."""
    alpha.usual = refusal(400, "filtered", code="content_filter")
    heard = await ask(await gateway_of(alpha, beta), stream=stream)
    assert (heard.status, heard.error["code"], len(beta.seen)) == (400, "content_filter", 0)


@BOTH_WAYS
async def test_filtered_answer_is_an_answer(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream, stream: bool
) -> None:
    """A 200 that ends in `content_filter` is passed on as it is."""
    alpha.usual = streamed("so far", finish="content_filter") if stream else whole("so far", finish="content_filter")
    heard = await ask(await gateway_of(alpha, beta), stream=stream)
    assert (heard.status, heard.text, heard.account.finish) == (200, "so far", "content_filter")
    assert len(beta.seen) == 0


def too_long() -> Script:
    return refusal(400, "This model's maximum context length is 8 tokens.", code="context_length_exceeded")


def sized(**contexts: int | None) -> list[dict[str, Any]]:
    """Models `m`, `small` and `large`, of which the others are `m`'s fallbacks."""
    return [
        {"name": "m", "routes": [{"provider": "alpha"}], "fallbacks": ["small", "large"], "context_tokens": 8},
        {"name": "small", "routes": [{"provider": "beta"}], "context_tokens": contexts["small"]},
        {"name": "large", "routes": [{"provider": "beta"}], "context_tokens": contexts["large"]},
    ]


@BOTH_WAYS
async def test_too_long_a_request_goes_to_a_larger_model(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream, stream: bool
) -> None:
    """Never to the same model again, never to a smaller one; the larger one answers."""
    alpha.usual, beta.usual = too_long(), good(stream)
    heard = await ask(await gateway_of(alpha, beta, models=sized(small=4, large=16)), stream=stream)
    assert (heard.status, heard.text, heard.provider) == (200, "fine", "beta")
    assert [seen.fields["model"] for seen in (*alpha.seen, *beta.seen)] == ["m", "large"]


@BOTH_WAYS
async def test_too_long_a_request_without_a_larger_model_is_told(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream, stream: bool
) -> None:
    """The provider's own 400 goes to the caller at once."""
    alpha.usual = too_long()
    heard = await ask(await gateway_of(alpha, beta, models=sized(small=4, large=8)), stream=stream)
    assert (heard.status, heard.error["code"]) == (400, "context_length_exceeded")
    assert (len(alpha.seen), len(beta.seen)) == (1, 0)


@BOTH_WAYS
async def test_fallback_that_refuses_prefill_does_not_hide_the_outage(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream, stream: bool
) -> None:
    """Its 400 is about itself: the caller hears of the first failure."""
    alpha.usual, beta.usual = refusal(503, "we are down"), refusal(400, "no prefill here")
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    heard = await ask(await gateway_of(alpha, beta), stream=stream, messages=messages)
    assert (heard.status, heard.error["message"]) == (503, "we are down")
    assert (len(alpha.seen), len(beta.seen)) == (6, 1)


async def test_unknown_model_is_not_found(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """Where providers name their models, no other one is served."""
    gateway = await gateway_of({"name": "alpha", "kind": "openai", "base_url": alpha.base_url, "models": ["other"]})
    heard = await ask(gateway)
    assert (heard.status, heard.error["code"], heard.error["param"]) == (404, "model_not_found", "model")
    assert heard.account.error == "model_not_found"


async def test_routes_aliases_and_prices(gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream) -> None:
    """An alias leads to its model's own routes under the provider's name of it, and the answer has its price."""
    entry = {
        "name": "good",
        "aliases": ["best"],
        "routes": [{"provider": "beta", "model": "their-name"}],
        "price": {"input": 1.0, "output": 10.0},
    }
    gateway = await gateway_of(alpha, beta, models=[entry])
    heard = await ask(gateway, model="best")
    assert (heard.provider, beta.seen[0].fields["model"], len(alpha.seen)) == ("beta", "their-name", 0)
    assert heard.account.cost_usd == pytest.approx((10 * 1.0 + 4 * 10.0) / 1e6)
    assert [model["id"] for model in gateway.models()["data"]] == ["good", "best"]


async def test_each_kind_of_provider_is_addressed_its_way(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """OpenAI's bearer, Azure's deployment and api-key, Anthropic's version and x-api-key."""
    root = alpha.base_url.removesuffix("/v1")
    gateway = await gateway_of(
        {"name": "o", "kind": "openai", "base_url": alpha.base_url, "api_key": "k-o", "headers": {"x-team": "us"}},
        {"name": "z", "kind": "azure", "base_url": root, "api_key": "k-z", "api_version": "2024-10-21"},
        {"name": "a", "kind": "anthropic", "base_url": alpha.base_url, "api_key": "k-a"},
        retry={"rounds": 0},
    )
    alpha.usual = refusal(500)
    await ask(gateway, model="dep/1")
    openai, azure, anthropic = alpha.seen
    assert (openai.path, openai.headers["authorization"], openai.headers["x-team"]) == (
        "/v1/chat/completions",
        "Bearer k-o",
        "us",
    )
    assert azure.path == "/openai/deployments/dep%2F1/chat/completions?api-version=2024-10-21"
    assert (azure.headers["api-key"], "authorization" in azure.headers) == ("k-z", False)
    assert (anthropic.path, anthropic.headers["x-api-key"]) == ("/v1/messages", "k-a")
    assert anthropic.headers["anthropic-version"] == "2023-06-01"
    assert anthropic.fields["max_tokens"] == 4096


async def test_operation_goes_only_where_it_can_be_said(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """Embeddings never reach a provider of Anthropic's dialect."""
    gateway = await gateway_of({"name": "a", "kind": "anthropic", "base_url": alpha.base_url, "api_key": "k"})
    heard = await ask(gateway, Operation.EMBEDDINGS, input="x")
    assert (heard.status, heard.error["code"], len(alpha.seen)) == (404, "model_not_found", 0)


async def test_caller_gone_in_a_pause_ends_everything(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """A caller that leaves between two rounds is not asked for any more."""
    alpha.usual = refusal(503)
    gateway = await gateway_of(alpha, retry={"pause_initial": "10s"})
    task = asyncio.create_task(ask(gateway))
    await until(lambda: len(alpha.seen) == 1 and gateway.providers_health()["alpha"]["errors"] == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(alpha.seen) == 1


async def test_caller_gone_while_waiting_closes_the_provider(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """A silent provider sees its connection closed at once."""
    alpha.usual = SILENT
    gateway = await gateway_of(alpha, timeouts={"answer": "60s"})
    task = asyncio.create_task(ask(gateway))
    await until(lambda: alpha.seen)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(45):
        await alpha.gone.wait()


async def test_own_limit_sends_requests_elsewhere(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream
) -> None:
    """Beyond what we allow ourselves at a provider, the next one is asked; with none, the caller is told to wait."""
    limited = {"name": "alpha", "kind": "openai", "base_url": alpha.base_url, "limit": {"requests": 2, "window": "1h"}}
    gateway = await gateway_of(limited, beta)
    providers = [(await ask(gateway)).provider for _ in range(4)]
    assert providers == ["alpha", "alpha", "beta", "beta"]


async def test_rate_limit_remaining_is_read(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """What the provider says of its own limit is shown."""
    alpha.usual = whole("x", headers={"anthropic-ratelimit-requests-remaining": "41"})
    gateway = await gateway_of(alpha)
    await ask(gateway)
    assert gateway.providers_health()["alpha"]["rate_limit_remaining"] == 41


async def test_refusal_speaks_the_callers_dialect(gateway_of: Any, alpha: ScriptedUpstream) -> None:
    """A refusal in Anthropic's words reaches a caller of OpenAI's as OpenAI would have put it."""
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": "messages: roles must alternate"}}
    alpha.usual = http(400, orjson.dumps(body))
    gateway = await gateway_of({"name": "a", "kind": "anthropic", "base_url": alpha.base_url, "api_key": "k"})
    heard = await ask(gateway)
    assert (heard.status, heard.error["message"]) == (400, "messages: roles must alternate")
    assert set(heard.error) == {"message", "type", "param", "code"}


async def test_route_is_not_blamed_for_time_that_others_used_up(
    gateway_of: Any, alpha: ScriptedUpstream, beta: ScriptedUpstream
) -> None:
    """A provider that is asked in the last moments of the total limit and cannot answer in them is not at fault."""
    alpha.usual = beta.usual = SILENT
    limits = {"connect": "5s", "first_byte": "1s", "answer": "1s", "idle": "1s", "total": "1300ms"}
    gateway = await gateway_of(alpha, beta, timeouts=limits)
    assert (await ask(gateway)).status == 504
    assert (len(alpha.seen), len(beta.seen)) == (1, 1)
    faults = {name: health["fault"] for name, health in gateway.providers_health().items()}
    assert faults == {"alpha": "timeout", "beta": None}
