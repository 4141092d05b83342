"""`invalidate_cache`: has the proxy forget answers that match: of a model or a namespace, or older than so long.

For what is known to be wrong by now, after a model or a prompt was changed: a playbook's webhook can call it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.core.model import Outcome
from watchdog.registry import DurationText
from watchdog.units import parse_duration


class InvalidateCacheSettings(ActionSettings):
    """Patterns are the shell's (`gpt-*`); what is given must all match, and at least one is: never everything."""

    kind: Literal["invalidate_cache"]
    model: str | None = Field(None, min_length=1, max_length=200)
    namespace: str | None = Field(None, min_length=1, max_length=200)
    operation: str | None = Field(None, min_length=1, max_length=200)
    older_than: DurationText | None = None

    @model_validator(mode="after")
    def _selects(self) -> InvalidateCacheSettings:
        if not self.selector:
            raise ValueError("expected `model`, `namespace`, `operation` or `older_than`; flush_cache removes all")
        if self.older_than is not None:
            parse_duration(self.older_than)
        return self

    @property
    def selector(self) -> dict[str, str]:
        """What the proxy is told."""
        given = {name: getattr(self, name) for name in ("model", "namespace", "operation", "older_than")}
        return {name: value for name, value in given.items() if value is not None}


@actions.register(InvalidateCacheSettings)
class InvalidateCache:
    """Fails if the proxy does not answer. Harmless to repeat, so an unrecorded one counts as not done."""

    disruptive = False

    def __init__(self, settings: InvalidateCacheSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        which = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self._settings.selector.items())
        return f"forget answers in the cache of {self._context.label('service')}: {which}"

    async def survey(self) -> Survey:
        return {}

    async def perform(self, survey: Survey) -> str:
        done = await self._context.proxy.invalidate_cache(self._settings.selector)
        return f"{done['invalidated']} answers forgotten"

    async def observe(self, survey: Survey) -> Sighting:
        return Sighting(Outcome.NOT_DONE, "what is forgotten already is forgotten again without harm")
