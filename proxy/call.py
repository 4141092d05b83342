"""One request as the gateway sees it, and what is remembered of it when it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, NamedTuple


class Operation(StrEnum):
    """What a caller asks for; named as OpenTelemetry's `gen_ai.operation.name` where that has a name."""

    CHAT = "chat"
    """`POST /v1/chat/completions`."""
    COMPLETIONS = "text_completion"
    """`POST /v1/completions`."""
    EMBEDDINGS = "embeddings"
    """`POST /v1/embeddings`."""
    MESSAGES = "messages"
    """`POST /v1/messages`, Anthropic's contract; `chat` in OpenTelemetry's terms."""


class Call(NamedTuple):
    """One request as the caller sent it. `fields` is `body` parsed, and must not be changed."""

    operation: Operation
    body: bytes
    fields: dict[str, Any]
    model: str
    """As the caller named it, before aliases."""
    stream: bool
    id: str
    caller: str
    """The id of the caller's key, never the key."""
    passed: tuple[tuple[str, str], ...] = ()
    """Headers that go to a provider of the caller's own dialect: `anthropic-beta`, `openai-organization`,
    `openai-project`. Anthropic's version is the provider's setting."""
    created: int = 0
    """When it came, in epoch seconds: for answers to which the provider gives no time of its own."""

    @property
    def choices(self) -> int:
        """How many choices were asked for; a text completion has `n` for each of its prompts."""
        wanted, prompts = self.fields.get("n"), 1
        if self.operation is Operation.COMPLETIONS:
            prompt = self.fields.get("prompt")
            if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
                prompts = len(prompt)
        return prompts * wanted if isinstance(wanted, int) and wanted > 0 else prompts

    @property
    def usage(self) -> bool:
        """Whether an OpenAI stream shall end with its usage."""
        options = self.fields.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True


class Usage(NamedTuple):
    """Tokens of one answer as its provider counted them. `input` includes `cached`."""

    input: int = 0
    output: int = 0
    cached: int = 0
    """Input tokens that were read from the provider's own cache."""
    cache_written: int = 0
    """Input tokens that were written to it (Anthropic)."""


@dataclass(slots=True)
class Account:
    """What one request came to: filled in on its way, read once at its end by metrics, ledger, limits and log.

    Only the attempt that answered is named and billed; what failed before is counted in `attempts`.
    """

    operation: Operation
    model_asked: str
    stream: bool
    provider: str | None = None
    model: str | None = None
    """The provider's own name of the model that answered."""
    key_id: str | None = None
    usage: Usage | None = None
    """None when the provider told nothing."""
    cost_usd: float | None = None
    """None without a price or a usage."""
    attempts: int = 0
    continued: int = 0
    """How often a cut stream was continued elsewhere."""
    cache: Literal["hit", "miss", "bypass"] = "bypass"
    finish: str | None = None
    first_content_seconds: float | None = None
    """From the request's begin; streams only."""
    error: str | None = None
    """The class of the failure that the caller was told of, or that ended the stream."""
