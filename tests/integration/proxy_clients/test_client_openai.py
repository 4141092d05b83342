"""OpenAI's own Python client as the judge of the proxy, before providers of both dialects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel
from served_proxy import TOOLS_TOWN, Served

if TYPE_CHECKING:
    # At run time where they are used: they take seconds, and each worker of a test run imports each file of tests.
    import openai
    from openai.types.chat import ChatCompletionChunk

MODELS = ("demo-small", "demo-claude")
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": TOOLS_TOWN}}


def said(content: str) -> Any:
    return [{"role": "user", "content": content}]


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    import openai

    with openai.OpenAI(base_url=served.base, api_key=served.key, max_retries=0) as made:
        yield made


@pytest.mark.parametrize("model", MODELS)
def test_openai_chat_whole(client: openai.OpenAI, model: str) -> None:
    """A whole answer has text, role, finish, model, usage and the id of its request."""
    answer = client.chat.completions.create(model=model, messages=said("good morning"))
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content is not None
    assert choice.message.content.endswith("heard: good morning")
    assert (choice.finish_reason, answer.model, answer.object) == ("stop", model, "chat.completion")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 4
    assert answer._request_id


@pytest.mark.parametrize("model", MODELS)
def test_openai_chat_stream(client: openai.OpenAI, model: str) -> None:
    """A stream has one role, the text in pieces, one finish, and its usage when it was asked for."""
    with client.chat.completions.create(
        model=model, messages=said("good morning"), stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas).strip().endswith("heard: good morning")
    assert [delta.role for delta in deltas if delta.role] == ["assistant"]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert [usage.completion_tokens for usage in usages] == [4]


@pytest.mark.parametrize("model", MODELS)
def test_openai_stream_without_usage(client: openai.OpenAI, model: str) -> None:
    """Who has not asked for the usage of a stream is not bothered with it."""
    with client.chat.completions.create(model=model, messages=said("hi"), stream=True) as stream:
        chunks = list(stream)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("model", MODELS)
def test_openai_tools_round_trip(client: openai.OpenAI, model: str) -> None:
    """The model calls a tool, is told its result, and answers with it."""
    messages = said("ask the weather tool")
    first = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER]).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.tool_calls is not None
    (call,) = first.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"town": "ask the weather tool"})
    messages += [
        first.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny all day"},
    ]
    second = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER]).choices[0]
    assert second.message.content is not None
    assert second.message.content.endswith("heard: sunny all day")


@pytest.mark.parametrize("model", MODELS)
def test_openai_streamed_tool_calls(client: openai.OpenAI, model: str) -> None:
    """The client's own helper puts the parts of streamed calls together."""
    with client.chat.completions.stream(
        model=model, messages=said("ask"), tools=[WEATHER], tool_choice="required"
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.tool_calls is not None
    (call,) = final.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"town": "ask"})


class Town(BaseModel):
    name: str
    people: int


@pytest.mark.parametrize("model", MODELS)
def test_openai_structured_output(client: openai.OpenAI, model: str) -> None:
    """A strict schema holds, whichever dialect the provider speaks."""
    parsed = client.chat.completions.parse(model=model, messages=said("Ulm has 12"), response_format=Town)
    assert parsed.choices[0].message.parsed == Town(name="Ulm has 12", people=12)


def test_openai_json_mode(client: openai.OpenAI) -> None:
    """JSON mode gives JSON."""
    form: Any = {"type": "json_object"}
    answer = client.chat.completions.create(model="demo-small", messages=said("x"), response_format=form)
    assert json.loads(answer.choices[0].message.content or "") == {"heard": "x"}


def test_openai_fields_that_are_unknown_to_us_arrive(client: openai.OpenAI) -> None:
    """Several choices, and a field that nobody knows, go through to a provider of the same dialect."""
    answer = client.chat.completions.create(model="demo-small", messages=said("x"), n=2, extra_body={"fresh": {"a": 1}})
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_openai_embeddings(client: openai.OpenAI) -> None:
    """Vectors in the coding that the client asks for by itself, base64, and as numbers."""
    packed = client.embeddings.create(model="demo-small", input=["one", "two"])
    plain = client.embeddings.create(model="demo-small", input="one", encoding_format="float")
    assert [len(one.embedding) for one in packed.data] == [8, 8]
    assert plain.data[0].embedding == pytest.approx(packed.data[0].embedding, abs=1e-6)


def test_openai_completions(client: openai.OpenAI) -> None:
    """The older endpoint, whole and streaming."""
    whole = client.completions.create(model="demo-small", prompt="once upon")
    assert whole.choices[0].text.strip().endswith("heard: once upon")
    with client.completions.create(model="demo-small", prompt="once upon", stream=True) as stream:
        text = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
    assert text.strip() == whole.choices[0].text.strip()


def test_openai_models(client: openai.OpenAI) -> None:
    """The list, one of it, and one that is not in it."""
    import openai

    assert {model.id for model in client.models.list()} == {"demo-small", "demo-large", "demo-claude"}
    assert client.models.retrieve("demo-claude").owned_by == "claude"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody-has-this")


def test_openai_raw_response(client: openai.OpenAI) -> None:
    """Headers that operators look for."""
    raw = client.chat.completions.with_raw_response.create(
        model="demo-small", messages=said("x"), extra_headers={"x-request-id": "mine-7"}
    )
    assert raw.headers["x-request-id"] == "mine-7"
    assert raw.headers["x-provider"] == "demo"
    assert float(raw.headers["x-response-time"]) > 0
    assert raw.parse().choices[0].message.content


def test_openai_errors_are_the_right_classes(served: Served, client: openai.OpenAI) -> None:
    """400, 401 and 404 raise what their status means, with the envelope's message, code and param."""
    import openai

    with pytest.raises(openai.BadRequestError) as invalid:
        client.chat.completions.create(model="demo-small", messages="x")  # type: ignore[call-overload]
    assert invalid.value.param == "messages"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody-has-this", messages=said("x"))
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as untranslatable:
        client.chat.completions.create(model="demo-claude", messages=said("x"), n=2)
    assert "n:" in untranslatable.value.message
    with (
        openai.OpenAI(base_url=served.base, api_key="sk-nobody", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as unauthorized,
    ):
        stranger.models.list()
    assert unauthorized.value.code == "invalid_api_key"


@pytest.mark.parametrize("model", MODELS)
def test_openai_hears_the_providers_own_refusal(served: Served, client: openai.OpenAI, model: str) -> None:
    """A 400 of either dialect's provider is told in OpenAI's envelope, with the provider's words."""
    import openai

    served.behave(mode="filter")
    with pytest.raises(openai.BadRequestError, match="content") as refused:
        client.chat.completions.create(model=model, messages=said("x"))
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("mode", "kind"), [("429", "RateLimitError"), ("500", "InternalServerError")], ids=["429", "500"]
)
@pytest.mark.parametrize("model", MODELS)
def test_openai_does_not_retry_what_the_proxy_has_retried(served: Served, mode: str, kind: str, model: str) -> None:
    """`x-should-retry: false` keeps the client's own two retries from multiplying ours."""
    import openai

    served.behave(mode=mode)
    before = served.counted()["requests"]
    with (
        openai.OpenAI(base_url=served.base, api_key=served.key, max_retries=2) as client,
        pytest.raises(getattr(openai, kind)) as failed,
    ):
        client.chat.completions.create(model=model, messages=said("x"))
    assert failed.value.response.headers["x-should-retry"] == "false"
    assert served.counted()["requests"] - before == 1


def test_openai_waits_out_our_own_limit(served: Served) -> None:
    """Our 429 says how long to wait, and the client's retry succeeds."""
    import openai

    with (
        openai.OpenAI(base_url=served.base, api_key=served.slow_key, max_retries=0) as impatient,
        pytest.raises(openai.RateLimitError) as limited,
    ):
        [impatient.chat.completions.create(model="demo-small", messages=said("x")) for _ in range(3)]
    assert int(limited.value.response.headers["retry-after"]) >= 1
    with openai.OpenAI(base_url=served.base, api_key=served.slow_key, max_retries=3) as patient:
        assert patient.chat.completions.create(model="demo-small", messages=said("x")).choices


@pytest.mark.parametrize("model", MODELS)
def test_openai_never_takes_a_cut_stream_for_a_whole_one(served: Served, client: openai.OpenAI, model: str) -> None:
    """A stream that can be continued nowhere raises, after what had come."""
    import openai

    served.behave(mode="cut", after_chunks=2)
    chunks: list[ChatCompletionChunk] = []
    with (
        client.chat.completions.create(model=model, messages=said("a b c d"), stream=True) as stream,
        pytest.raises(openai.APIError, match="stream"),
    ):
        chunks.extend(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "demo heard: "


@pytest.mark.parametrize("model", MODELS)
def test_openai_gets_the_whole_of_a_stream_that_was_cut_once(served: Served, client: openai.OpenAI, model: str) -> None:
    """What another attempt says in agreement with what was sent is one answer."""
    served.behave(mode="cut", after_chunks=2, for_requests=1)
    with client.chat.completions.create(model=model, messages=said("a b c d"), stream=True) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.strip() == "demo heard: a b c d"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_openai_async(served: Served) -> None:
    """Many at once, whole and streaming; a stream that is left early is left upstream too."""
    import openai

    async with openai.AsyncOpenAI(base_url=served.base, api_key=served.key, max_retries=0) as client:

        async def whole(number: int) -> str:
            answer = await client.chat.completions.create(model=MODELS[number % 2], messages=said(f"n{number}"))
            return answer.choices[0].message.content or ""

        async def streamed(number: int) -> str:
            stream = await client.chat.completions.create(
                model=MODELS[number % 2], messages=said(f"n{number}"), stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        answers = await asyncio.gather(*map(whole, range(20)), *map(streamed, range(20)))
        assert [answer.split()[-1] for answer in answers] == [f"n{number}" for number in [*range(20), *range(20)]]
        gone = served.counted()["client_disconnects"]
        served.behave(chunks=1000, chunk_delay_seconds=0.02)
        stream = await client.chat.completions.create(model="demo-small", messages=said("x"), stream=True)
        async for _ in stream:
            break
        await stream.close()
        async with asyncio.timeout(45):
            while served.counted()["client_disconnects"] == gone:
                await asyncio.sleep(0.02)
