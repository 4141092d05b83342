"""Wires the keeper of archives to the daemon: when it looks, when it archives, and what it measured."""

from __future__ import annotations

import asyncio
import logging

from watchdog.backups.holding import OWN
from watchdog.backups.keeper import Keeper
from watchdog.backups.vault import Vault
from watchdog.clock import Clock
from watchdog.errors import BackupError
from watchdog.holdings import holdings_of, vault_of
from watchdog.pipeline import Pipeline
from watchdog.schedule import Pace, Schedule
from watchdog.settings import BackupSettings, Loaded

log = logging.getLogger("proxywatch.backup")

LOOK = "configuration"
DAILY = "daily-backup"
NEWS = "backups"


class Keeping:
    """One a daemon."""

    def __init__(self, loaded: Loaded, clock: Clock, schedule: Schedule) -> None:
        settings = loaded.config.backups
        self._keeper = Keeper(vault_of(loaded), clock, keep=settings.keep, at_least=settings.keep_at_least)
        self._schedule = schedule
        self._pipeline: Pipeline | None = None

    @property
    def vault(self) -> Vault:
        """Shelf and holdings in force."""
        return self._keeper.vault

    async def begin(self, settings: BackupSettings, pipeline: Pipeline, *, accepted: bool) -> None:
        """Remembers the agent's own configuration, if what is in place was `accepted` a moment ago, and plans the
        rest."""
        self._pipeline = pipeline
        if accepted:
            await self._keeper.remember(OWN)
        self._plan(settings)

    async def before_change(self) -> None:
        """The agent's configuration in force is archived. A disk that takes no archive must not keep a correction of
        the configuration from being taken over, so that it is only told."""
        try:
            await self._keeper.before_change(OWN)
        except BackupError as error:
            log.warning("the configuration in force could not be archived before the change: %s", error)

    def replace(self, loaded: Loaded) -> None:
        """Another configuration is in force. The shelf stays where it is until a restart."""
        settings = loaded.config.backups
        self._keeper.keep, self._keeper.at_least = settings.keep, settings.keep_at_least
        self._keeper.vault.holdings = holdings_of(loaded)
        self._plan(settings)

    def _plan(self, settings: BackupSettings) -> None:
        hour, minute = map(int, settings.daily_at.split(":"))
        self._schedule.every(LOOK, Pace(settings.look_every), self._keeper.look, at_once=False)
        self._schedule.every(NEWS, Pace(settings.look_every), self._measured)
        self._schedule.recur(DAILY, self._keeper.daily, cron=f"{minute} {hour} * * *")

    async def _measured(self) -> None:
        """Apart from looking, which may take long while much is judged."""
        if self._pipeline is not None:
            self._pipeline.ingest_own(NEWS, await asyncio.to_thread(self._keeper.samples))
