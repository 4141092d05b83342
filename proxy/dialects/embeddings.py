"""OpenAI's embeddings, which have no stream."""

from __future__ import annotations

from proxy.call import Call
from proxy.dialects import openai
from proxy.dialects.contract import Decoder, Encoder, MalformedError, NotTranslatableError, Whole

_NO_STREAM = "embeddings cannot be streamed"


class ToOpenAI:
    """Embeddings at a provider that speaks OpenAI's API."""

    path = "/embeddings"
    same = True

    def request(self, call: Call, model: str, *, stream_usage: bool, max_tokens: int) -> bytes:
        """NotTranslatableError for a stream."""
        if call.stream:
            raise NotTranslatableError(_NO_STREAM)
        return openai.request_body(call, model, stream_usage=True)

    def whole(self, call: Call, body: bytes) -> Whole:
        """MalformedError if there is not a vector in it."""
        parsed = openai.object_of(body)
        data, model = parsed.get("data"), parsed.get("model")
        if not isinstance(data, list) or not data or not all(isinstance(one, dict) for one in data):
            raise MalformedError("no embeddings in it")
        return Whole(
            body, openai.usage_of(parsed.get("usage")), model if isinstance(model, str) else None, None, storable=True
        )

    def decoder(self, call: Call) -> Decoder:
        raise NotTranslatableError(_NO_STREAM)

    def encoder(self, call: Call) -> Encoder:
        raise NotTranslatableError(_NO_STREAM)

    def replayed(self, call: Call, body: bytes) -> bytes | None:
        return None

    def error(self, status: int, body: bytes) -> bytes:
        return openai.refusal(status, body)
