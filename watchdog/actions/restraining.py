"""What the actions have in common that have the proxy hold something back for a time.

The effect ends by itself, so nothing can be left switched off; it is recognised by the proxy naming a restraint that is
younger than what the survey saw. One that has ended before anybody could look counts as not done: putting it in force
again is what was wanted.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from watchdog.actions import ActionContext, Sighting, Survey
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProxywatchError
from watchdog.system.proxy_api import Restraint
from watchdog.units import format_duration

What = Literal["load", "limits", "rate", "key"]


class Restraining:
    """The contract's other half. `seconds` 0 ends what is in force."""

    what: What

    def __init__(self, context: ActionContext, seconds: float) -> None:
        self._context = context
        self._seconds = seconds

    @property
    def subject(self) -> str:
        """What exactly is held back: a provider's name, a key's id, or nothing."""
        return ""

    @abstractmethod
    async def put(self, reason: str) -> Restraint:
        """Has the proxy do it."""

    async def survey(self) -> Survey:
        now = await self._in_force()
        return {"since": 0.0 if now is None else now.since}

    async def perform(self, survey: Survey) -> str:
        cause = self._context.labels.get("alertname") or "by hand"
        await self.put(f"proxywatch: {cause}, {self._context.target}"[:200])
        now = await self._in_force()
        name = f"{self.what} {self.subject}".strip()
        if self._seconds == 0:
            if now is not None:
                raise ActionError(f"{name} is still held back although that was to end")
            return f"{name} is no longer held back"
        if now is None:
            raise ActionError(f"{name} is not held back although the proxy took the order")
        return f"{name} is held back for {format_duration(self._seconds)}"

    async def observe(self, survey: Survey) -> Sighting:
        try:
            now = await self._in_force()
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        name = f"{self.what} {self.subject}".strip()
        if self._seconds == 0:
            done = now is None and survey["since"] > 0
        else:
            done = now is not None and now.since > survey["since"]
        return Sighting(Outcome.DONE if done else Outcome.NOT_DONE, f"{name} is {'not ' * (now is None)}held back")

    async def _in_force(self) -> Restraint | None:
        wanted = self.what, self.subject
        found = await self._context.proxy.restraints()
        return next((one for one in found if (one.what, one.subject) == wanted), None)
