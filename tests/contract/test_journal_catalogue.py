"""The message catalogue beside the units explains exactly what the agent writes."""

from __future__ import annotations

import re
from pathlib import Path

from watchdog.journal.message_ids import MESSAGE_IDS

CATALOGUE = Path(__file__).resolve().parents[2] / "systemd/catalog/proxywatch.catalog"


def test_every_message_is_explained_once() -> None:
    """Each stable id has one entry with a subject, and no entry is of an id that nothing writes."""
    entries = re.findall(
        r"^-- ([0-9a-f]{32})\nSubject: \S.+\nDefined-By: proxywatch\n", CATALOGUE.read_text(), re.MULTILINE
    )
    assert sorted(entries) == sorted(MESSAGE_IDS.values())
