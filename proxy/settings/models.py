"""Models as callers name them: aliases, routes to providers, fallbacks, capabilities and prices."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from proxy.settings.base import Section, expect_once


class Price(Section):
    """US dollars per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(None, ge=0)
    """None: as `input`."""


class ModelRoute(Section):
    """One place where a model is served."""

    provider: str
    model: str | None = None
    """The provider's own name of it (Azure: the deployment); None: the same name."""


class Model(Section):
    """One model that callers may ask for."""

    name: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()
    routes: tuple[ModelRoute, ...] = ()
    """In order of preference; empty: every provider that serves `name`."""
    fallbacks: tuple[str, ...] = ()
    """Other models, tried in order when each route has failed, or when the request is too long for this one."""
    context_tokens: int | None = Field(None, ge=1)
    """A fallback is taken for a request that was too long only if it holds more than this."""
    prefill: Literal["no", "assistant", "prefix", "prefix_repeated", "continue_final_message"] = "no"
    """How it continues a text that is given as the assistant's last message: just so (Anthropic), with `prefix: true`
    (DeepSeek), likewise but beginning its answer with that text (Mistral), with `continue_final_message` (vLLM), or not
    at all."""
    tools: bool = True
    price: Price | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        expect_once("name of a model", [self.name, *self.aliases])
        expect_once("fallback", [self.name, *self.fallbacks])
        expect_once("route", [f"{route.provider}/{route.model or self.name}" for route in self.routes])
        return self
