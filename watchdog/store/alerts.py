"""Alerts on disk, so that `for` and what is firing survive a restart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from watchdog.core.model import Alert, AlertChange, AlertEvent, AlertState
from watchdog.store.database import Database
from watchdog.store.incidents import pairs


class Alerts:
    """The pending and firing ones only; a resolved alert lives on in its incident."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def apply(self, events: Iterable[AlertEvent]) -> None:
        """Writes what changed."""
        for event in events:
            alert = event.alert
            if event.change in {AlertChange.RESOLVED, AlertChange.FORGOTTEN}:
                self._database.execute("DELETE FROM alerts WHERE fingerprint = ?", (alert.fingerprint,))
            else:
                self._database.execute(
                    "INSERT INTO alerts (fingerprint, rule, body) VALUES (?, ?, ?)"
                    " ON CONFLICT (fingerprint) DO UPDATE SET rule = excluded.rule, body = excluded.body",
                    (alert.fingerprint, alert.rule, json.dumps(asdict(alert))),
                )

    def all(self) -> list[Alert]:
        """As they were when the daemon last wrote."""
        found = []
        for row in self._database.query("SELECT body FROM alerts ORDER BY fingerprint"):
            body = json.loads(row["body"])
            body.update(
                labels=pairs(body["labels"]),
                annotations=pairs(body["annotations"]),
                state=AlertState(body["state"]),
            )
            found.append(Alert(**body))
        return found
