"""Small facts by name that must survive: who paused the agent, what is silenced, what is under maintenance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, TypeVar

from watchdog.core.permission import Pause
from watchdog.core.routing import parse_matchers
from watchdog.core.silences import Maintenance, Silence
from watchdog.store.database import Database, Stamp

T = TypeVar("T")


class Facts:
    """A value is JSON; an absent name is None."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[Stamp, Any]] = {}

    def _read(self, name: str, build: Callable[[list[dict[str, Any]]], tuple[T, ...]]) -> tuple[T, ...]:
        """Rows as what they stand for; read again only after they were written."""
        stamp = self._database.stamp(name)
        known = self._known.get(name)
        if known is None or known[0] != stamp:
            known = self._known[name] = (stamp, build(self.get(name) or []))
        found: tuple[T, ...] = known[1]
        return found

    def get(self, name: str) -> Any:
        """The value, or None."""
        rows = self._database.query("SELECT body FROM facts WHERE name = ?", (name,))
        return json.loads(rows[0]["body"]) if rows else None

    def put(self, name: str, value: object) -> None:
        """Replaces the value."""
        self._database.touch(name)
        self._database.execute(
            "INSERT INTO facts (name, body) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET body = excluded.body",
            (name, json.dumps(value)),
        )
        self._database.flush()

    def pauses(self, now: float) -> tuple[Pause, ...]:
        """The reasons in force at `now`."""
        known = self._read("pauses", lambda rows: tuple(Pause(**row) for row in rows))
        return tuple(p for p in known if p.until is None or p.until > now)

    def pause(self, pause: Pause, now: float) -> None:
        """Adds one reason."""
        self.put("pauses", [asdict(p) for p in (*self.pauses(now), pause)])

    def resume(self) -> int:
        """Takes every reason away; returns how many there were."""
        count = len(self.get("pauses") or [])
        self.put("pauses", [])
        return count

    def maintenance(self, now: float) -> tuple[Maintenance, ...]:
        """Windows that have not ended at `now`, also those that are still to begin."""
        known = self._read(
            "maintenance", lambda rows: tuple(Maintenance(**{**row, "targets": tuple(row["targets"])}) for row in rows)
        )
        return tuple(window for window in known if window.until > now)

    def maintain(self, window: Maintenance, now: float) -> None:
        """Adds a window, or replaces the one with its id."""
        kept = [other for other in self.maintenance(now) if other.id != window.id]
        self.put("maintenance", [asdict(one) for one in (*kept, window)])

    def end_maintenance(self, identifier: str, now: float) -> bool:
        """Ends a window now; whether there was one with this id."""
        before = self.maintenance(now)
        self.put("maintenance", [asdict(window) for window in before if window.id != identifier])
        return any(window.id == identifier for window in before)

    def silences(self, now: float) -> tuple[Silence, ...]:
        """Silences that have not ended at `now`, also those that are still to begin."""
        known = self._read(
            "silences",
            lambda rows: tuple(Silence(**{**row, "matchers": parse_matchers(row["matchers"])}) for row in rows),
        )
        return tuple(silence for silence in known if silence.until > now)

    def silence(self, silence: Silence, now: float) -> None:
        """Adds a silence, or replaces the one with its id."""
        kept = [other for other in self.silences(now) if other.id != silence.id]
        self._put_silences((*kept, silence))

    def end_silence(self, identifier: str, now: float) -> bool:
        """Ends a silence now; whether there was one with this id."""
        before = self.silences(now)
        self._put_silences(silence for silence in before if silence.id != identifier)
        return any(silence.id == identifier for silence in before)

    def _put_silences(self, silences: Iterable[Silence]) -> None:
        rows = [{**asdict(s), "matchers": ", ".join(map(str, s.matchers))} for s in silences]
        self.put("silences", rows)
