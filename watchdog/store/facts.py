"""Small facts by name that must survive: who paused the agent, and why."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from watchdog.core.permission import Pause
from watchdog.store.database import Database


class Facts:
    """A value is JSON; an absent name is None."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> Any:
        """The value, or None."""
        rows = self._database.query("SELECT body FROM facts WHERE name = ?", (name,))
        return json.loads(rows[0]["body"]) if rows else None

    def put(self, name: str, value: object) -> None:
        """Replaces the value."""
        self._database.execute(
            "INSERT INTO facts (name, body) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET body = excluded.body",
            (name, json.dumps(value)),
        )

    def pauses(self, now: float) -> tuple[Pause, ...]:
        """The reasons in force at `now`."""
        return tuple(
            p for p in (Pause(**entry) for entry in self.get("pauses") or []) if p.until is None or p.until > now
        )

    def pause(self, pause: Pause, now: float) -> None:
        """Adds one reason."""
        self.put("pauses", [asdict(p) for p in (*self.pauses(now), pause)])

    def resume(self) -> int:
        """Takes every reason away; returns how many there were."""
        count = len(self.get("pauses") or [])
        self.put("pauses", [])
        return count
