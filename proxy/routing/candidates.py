"""Which routes a request may take: from the model that a caller names to providers and their own names of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from proxy.call import Call, Operation
from proxy.dialects.continuation import Kind
from proxy.settings.models import Model, Price

OTHER = "other"
"""The label of each model that the configuration does not name."""
_MOST_UNNAMED = 256
"""How many names that nobody configured are kept with their candidates; each costs some hundred bytes."""
_LONGEST_UNNAMED = 200
Prefill = Literal["no"] | Kind


@dataclass(frozen=True, slots=True)
class Served:
    """What one provider serves: `models` (empty: any), of which `listed` are known by name."""

    provider: str
    models: tuple[str, ...]
    listed: tuple[str, ...]

    def serves(self, model: str) -> bool:
        """Whether requests for `model` may go there."""
        return not self.models or model in self.models


@dataclass(frozen=True, slots=True)
class Candidate:
    """One route: a provider, its own name of a model, and what that model can do."""

    provider: str
    model: str
    label: str
    """The model's name in the configuration, or `other`: safe as a label of metrics and circuits."""
    context_tokens: int | None = None
    prefill: Prefill = "no"
    tools: bool = True
    price: Price | None = None


class Catalogue:
    """Compiled once from the configuration; the order of `served` is that of preference. Routes to a provider that is
    not among `served` are left out."""

    def __init__(self, served: Sequence[Served], models: Sequence[Model]) -> None:
        self._served = tuple(served)
        self._unnamed: dict[str, tuple[Candidate, ...]] = {}
        by_name = {model.name: model for model in models}
        self._routes: dict[str, tuple[Candidate, ...]] = {}
        for name in dict.fromkeys(name for provider in served for name in (*provider.listed, *provider.models)):
            self._routes[name] = tuple(self._unlisted(name, name))
        for model in models:
            found = tuple(_distinct(self._with_fallbacks(model, by_name, set())))
            for name in (model.name, *model.aliases):
                self._routes[name] = found

    def labels_of(self, provider: str) -> tuple[str, ...]:
        """Each label that a candidate of the provider may bear."""
        routes = [candidate for found in self._routes.values() for candidate in found]
        return (*dict.fromkeys(one.label for one in routes if one.provider == provider), OTHER)

    def candidates(self, model: str) -> tuple[Candidate, ...]:
        """In the order in which they are to be tried; empty if nobody serves it."""
        known = self._routes.get(model)
        if known is None:
            known = self._unnamed.get(model)
        if known is None:
            known = tuple(self._unlisted(model, OTHER))
            if len(self._unnamed) >= _MOST_UNNAMED:
                self._unnamed.clear()
            if len(model) <= _LONGEST_UNNAMED:
                self._unnamed[model] = known
        return known

    def listing(self) -> list[tuple[str, str]]:
        """(model, provider that owns it) of each model that callers are shown, once, in the configured order."""
        return [(name, routes[0].provider) for name, routes in self._routes.items() if routes]

    def _unlisted(self, model: str, label: str) -> Iterator[Candidate]:
        return (Candidate(served.provider, model, label) for served in self._served if served.serves(model))

    def _with_fallbacks(self, model: Model, by_name: dict[str, Model], seen: set[str]) -> Iterator[Candidate]:
        if model.name in seen:
            return
        seen.add(model.name)
        here = {served.provider for served in self._served}
        places = [(route.provider, route.model or model.name) for route in model.routes if route.provider in here]
        if not model.routes:
            places = [(served.provider, model.name) for served in self._served if served.serves(model.name)]
        for provider, name in places:
            yield Candidate(provider, name, model.name, model.context_tokens, model.prefill, model.tools, model.price)
        for fallback in model.fallbacks:
            yield from self._with_fallbacks(by_name[fallback], by_name, seen)


def _distinct(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    seen = set()
    for candidate in candidates:
        place = candidate.provider, candidate.model
        if place not in seen:
            seen.add(place)
            yield candidate


def suited(candidates: tuple[Candidate, ...], call: Call) -> tuple[Candidate, ...]:
    """Those that can do what the request needs: without tools only if none has them, and one that ends in the
    assistant's words first to those that continue them."""
    if call.operation is not Operation.CHAT and call.operation is not Operation.MESSAGES:
        return candidates
    fields = call.fields
    if fields.get("tools") and not all(candidate.tools for candidate in candidates):
        candidates = tuple(candidate for candidate in candidates if candidate.tools) or candidates
    if len(candidates) > 1 and ends_in_assistant(fields):
        candidates = tuple(sorted(candidates, key=lambda candidate: candidate.prefill == "no"))
    return candidates


def ends_in_assistant(fields: dict[str, Any]) -> bool:
    """Whether the last message is the assistant's, so that its words are to be continued."""
    messages = fields.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def roomier(candidate: Candidate, full: Candidate) -> bool:
    """Whether a request that was too long for `full` may fit `candidate`: another model, of a larger or unknown
    context."""
    if candidate.model == full.model or (candidate.label == full.label != OTHER):
        return False
    return (
        candidate.context_tokens is None
        or full.context_tokens is None
        or candidate.context_tokens > full.context_tokens
    )
