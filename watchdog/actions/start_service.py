"""`start_service`: starts the target's service, with its minimal configuration if that is wanted and there is one.

The minimal configuration takes the main file's place; it is made from what stands there and judged before. Recognised
by the service running.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from watchdog.actions import ActionContext, ActionSettings, Sighting, Survey, actions
from watchdog.backups.holding import Holding, Piece, read_pieces
from watchdog.backups.judging import judge_pieces
from watchdog.backups.minimal import is_minimal, minimal_of
from watchdog.backups.switching import Change, replaced, switch, to_the_end
from watchdog.core.model import Outcome
from watchdog.errors import ActionError, ProxywatchError
from watchdog.registry import Duration
from watchdog.system.services.recovery import Minimal


class StartServiceSettings(ActionSettings):
    """`minimal`: by the service's own `recovery.minimal`; a service that has none starts with what it has."""

    kind: Literal["start_service"]
    timeout: Duration = 120.0
    minimal: bool = False


@actions.register(StartServiceSettings)
class StartService:
    """Fails if the minimal configuration would be refused, and as the service's own start fails."""

    disruptive = True

    def __init__(self, settings: StartServiceSettings, context: ActionContext) -> None:
        self._settings = settings
        self._context = context

    def describe(self) -> str:
        name, minimal = self._context.label("service"), self._minimal()
        if minimal is not None:
            return f"start service {name} with its minimal configuration in the place of {minimal.file}"
        return f"start service {name}" + (" as it is: no minimal configuration is known" * self._settings.minimal)

    async def survey(self) -> Survey:
        return {"state": (await self._context.service.status()).state}

    async def perform(self, survey: Survey) -> str:
        minimal = self._minimal()
        if minimal is not None:
            await self._reduce(self._context.holding, minimal)
        await self._context.service.start()
        return f"{self._context.label('service')} was started" + (" with its minimal configuration" * bool(minimal))

    async def observe(self, survey: Survey) -> Sighting:
        try:
            status = await self._context.service.status()
        except ProxywatchError as error:
            return Sighting(Outcome.UNKNOWN, str(error))
        seen = f"{self._context.label('service')} was {survey['state']} and now is {status.state}"
        match status.state:
            case "running":
                return Sighting(Outcome.DONE, seen)
            case "stopped" | "failed":
                return Sighting(Outcome.NOT_DONE, seen)
            case _:
                return Sighting(Outcome.UNKNOWN, seen)

    def _minimal(self) -> Minimal | None:
        vault = self._context.vault
        if not self._settings.minimal or vault is None or self._context.label("service") not in vault.holdings:
            return None
        recovery = self._context.holding.recovery
        return None if recovery is None else recovery.minimal

    async def _reduce(self, holding: Holding, minimal: Minimal) -> None:
        async with self._context.shelf.lock():
            pieces = await asyncio.to_thread(read_pieces, holding)
            file = str(Path.cwd() / minimal.file)
            whole = next((piece for piece in pieces if piece.member.path == file), None)
            if whole is None or not isinstance(whole.content, bytes):
                raise ActionError(f"{file} is not there, so nothing can be made of it")
            if is_minimal(whole.content):
                return
            text = minimal_of(whole.content, minimal.overlay)
            member = replaced(whole.member, text, int(self._context.clock.wall() * 1e9))
            smaller = [Piece(member, text) if piece is whole else piece for piece in pieces]
            with self._context.shelf.scratch() as scratch:
                problem = await judge_pieces(holding, smaller, scratch)
            if problem:
                raise ActionError(f"the minimal configuration would be refused: {problem}")
            await to_the_end(lambda: switch([Change(file, text, member)]))
