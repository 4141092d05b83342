"""Anthropic's own Python client as the judge of `/v1/messages`, before providers of both dialects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from served_proxy import TOOLS_TOWN, Served

if TYPE_CHECKING:
    # At run time where they are used: they take seconds, and each worker of a test run imports each file of tests.
    import anthropic

MODELS = ("demo-claude", "demo-small")
WEATHER: Any = {"name": "weather", "input_schema": TOOLS_TOWN}


def said(content: Any) -> Any:
    return [{"role": "user", "content": content}]


@pytest.fixture
def client(served: Served) -> Iterator[anthropic.Anthropic]:
    import anthropic

    with anthropic.Anthropic(base_url=served.root, api_key=served.key, max_retries=0) as made:
        yield made


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_whole(client: anthropic.Anthropic, model: str) -> None:
    """A whole message has text, stop reason, model, usage and the id of its request."""
    answer = client.messages.create(model=model, max_tokens=100, messages=said("good morning"), system="Be brief.")
    (block,) = answer.content
    assert block.type == "text"
    assert block.text.endswith("heard: good morning")
    assert (answer.stop_reason, answer.model, answer.role) == ("end_turn", model, "assistant")
    assert answer.usage.output_tokens == 4
    assert answer.usage.input_tokens > 0
    assert answer._request_id


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_stream(client: anthropic.Anthropic, model: str) -> None:
    """The client's helper puts the events together to the same message."""
    with client.messages.stream(model=model, max_tokens=100, messages=said("good morning")) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text.strip().endswith("heard: good morning")
    assert (final.stop_reason, final.model, final.usage.output_tokens) == ("end_turn", model, 4)
    assert final.usage.input_tokens > 0


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_limit(client: anthropic.Anthropic, model: str) -> None:
    """An answer that the limit cut says so."""
    answer = client.messages.create(model=model, max_tokens=2, messages=said("one two three four"))
    assert answer.stop_reason == "max_tokens"


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize("model", MODELS)
def test_anthropic_tools_round_trip(client: anthropic.Anthropic, model: str, streaming: bool) -> None:
    """The model calls a tool, is told its result, and answers with it."""
    messages = said("ask the weather tool")
    asked: Any = {"model": model, "max_tokens": 100, "tools": [WEATHER]}
    if streaming:
        with client.messages.stream(messages=messages, **asked) as stream:
            first = stream.get_final_message()
    else:
        first = client.messages.create(messages=messages, **asked)
    assert first.stop_reason == "tool_use"
    (block,) = first.content
    assert block.type == "tool_use"
    assert (block.name, block.input) == ("weather", {"town": "ask the weather tool"})
    result = {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "sunny all day"}]}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    (second,) = client.messages.create(messages=messages, **asked).content
    assert second.type == "text"
    assert second.text.endswith("heard: sunny all day")


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_images(client: anthropic.Anthropic, model: str) -> None:
    """An image beside text is no obstacle in either dialect."""
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "what is it"}]
    (block,) = client.messages.create(model=model, max_tokens=100, messages=said(content)).content
    assert block.type == "text"
    assert block.text.endswith("what is it")


def test_anthropic_thinking(served: Served, client: anthropic.Anthropic) -> None:
    """Thinking comes with its signature from who can sign; reasoning of others is left out."""
    served.behave(reasoning="let me think")
    own = client.messages.create(model="demo-claude", max_tokens=100, messages=said("x"))
    assert [block.type for block in own.content] == ["thinking", "text"]
    with client.messages.stream(model="demo-claude", max_tokens=100, messages=said("x")) as stream:
        thought = stream.get_final_message().content[0]
    assert thought.type == "thinking"
    assert (thought.thinking, thought.signature) == ("let me think", "demo-signature")
    with client.messages.stream(model="demo-small", max_tokens=100, messages=said("x")) as stream:
        assert [block.type for block in stream.get_final_message().content] == ["text"]


def test_anthropic_errors_are_the_right_classes(served: Served, client: anthropic.Anthropic) -> None:
    """400, 401 and 404 raise what their status means, in Anthropic's envelope, with the request's id."""
    import anthropic

    with pytest.raises(anthropic.BadRequestError) as invalid:
        client.messages.create(model="demo-small", max_tokens=5, messages="x")  # type: ignore[arg-type]
    assert invalid.value.type == "invalid_request_error"
    assert invalid.value.request_id
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.messages.create(model="nobody-has-this", max_tokens=5, messages=said("x"))
    assert unknown.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="container"):
        client.messages.create(model="demo-small", max_tokens=5, messages=said("x"), container="c")
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="demo-small", messages=said("x"))
    with (
        anthropic.Anthropic(base_url=served.root, api_key="sk-nobody", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError) as unauthorized,
    ):
        stranger.messages.create(model="demo-small", max_tokens=5, messages=said("x"))
    assert unauthorized.value.type == "authentication_error"


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_hears_the_providers_own_refusal(served: Served, client: anthropic.Anthropic, model: str) -> None:
    """A 400 of either dialect's provider is told in Anthropic's, with the provider's words."""
    import anthropic

    served.behave(mode="filter")
    with pytest.raises(anthropic.BadRequestError, match="content") as refused:
        client.messages.create(model=model, max_tokens=5, messages=said("x"))
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_beta(client: anthropic.Anthropic, model: str) -> None:
    """The same endpoint, as the client asks for what is still tried out."""
    answer = client.beta.messages.create(
        model=model, max_tokens=100, messages=said("hi"), betas=["some-beta-2026-01-01"]
    )
    assert answer.stop_reason == "end_turn"


def test_anthropic_models(client: anthropic.Anthropic) -> None:
    """The list, by its names."""
    assert {model.id for model in client.models.list()} >= {"demo-claude", "demo-small"}


def test_anthropic_bearer(served: Served) -> None:
    """The client's other way to show a key."""
    import anthropic

    with anthropic.Anthropic(base_url=served.root, auth_token=served.key, max_retries=0) as client:
        assert client.messages.create(model="demo-claude", max_tokens=5, messages=said("x")).content


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_does_not_retry_what_the_proxy_has_retried(served: Served, model: str) -> None:
    """A rate limit of the provider's, in Anthropic's words, once."""
    import anthropic

    served.behave(mode="429")
    before = served.counted()["requests"]
    with (
        anthropic.Anthropic(base_url=served.root, api_key=served.key, max_retries=2) as client,
        pytest.raises(anthropic.RateLimitError) as failed,
    ):
        client.messages.create(model=model, max_tokens=5, messages=said("x"))
    assert failed.value.type == "rate_limit_error"
    assert served.counted()["requests"] - before == 1


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_never_takes_a_cut_stream_for_a_whole_one(
    served: Served, client: anthropic.Anthropic, model: str
) -> None:
    """A stream that can be continued nowhere raises, after what had come."""
    import anthropic

    served.behave(mode="cut", after_chunks=2)
    text: list[str] = []
    with (
        client.messages.stream(model=model, max_tokens=100, messages=said("a b c d")) as stream,
        pytest.raises(anthropic.APIStatusError, match="stream"),
    ):
        text.extend(stream.text_stream)
    assert text == ["demo ", "heard: "]


@pytest.mark.parametrize("model", MODELS)
def test_anthropic_gets_the_whole_of_a_stream_that_was_cut_once(
    served: Served, client: anthropic.Anthropic, model: str
) -> None:
    """What another attempt says in agreement with what was sent is one message, in one block."""
    served.behave(mode="cut", after_chunks=2, for_requests=1)
    with client.messages.stream(model=model, max_tokens=100, messages=said("a b c d")) as stream:
        final = stream.get_final_message()
    (block,) = final.content
    assert block.type == "text"
    assert block.text.strip() == "demo heard: a b c d"
    assert final.stop_reason == "end_turn"


@pytest.mark.parametrize("model", MODELS)
async def test_anthropic_async(served: Served, model: str) -> None:
    """The asynchronous client, streaming."""
    import anthropic

    async with (
        anthropic.AsyncAnthropic(base_url=served.root, api_key=served.key, max_retries=0) as client,
        client.messages.stream(model=model, max_tokens=100, messages=said("hi")) as stream,
    ):
        final = await stream.get_final_message()
    assert final.stop_reason == "end_turn"
