"""The shelf and what is kept on it, as actions, the schedule and the command line share them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from watchdog.backups.holding import Holding
from watchdog.backups.shelf import Shelf
from watchdog.errors import BackupError


@dataclass(slots=True)
class Vault:
    """Replaced in place by a reload of the configuration."""

    shelf: Shelf
    holdings: Mapping[str, Holding]

    def holding(self, name: str) -> Holding:
        """Raises BackupError for a program of which nothing is kept."""
        if name not in self.holdings:
            hint = f"kept are: {', '.join(self.holdings)}; a service is kept by its `recovery` section"
            raise BackupError(f"nothing is kept of {name!r}", hint=hint, permanent=True)
        return self.holdings[name]
