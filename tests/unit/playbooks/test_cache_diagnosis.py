"""What the figures of a cache suggest."""

from __future__ import annotations

from typing import Any

import pytest

from watchdog.playbooks.evidence.cache_diagnosis import findings

LIMITS = {"ttl": 1800.0, "max_size_mb": 64, "max_entries": 100, "strategy": "lru"}
WELL = {"entries": 50, "memory_usage_mb": 1.0, "expired_entries": 1, "evictions": 0, "hit_rate": 0.9}
REPEATING = [{"hits": 3}] * 40 + [{"hits": 0}] * 10
CHURNING = [{"hits": 1}] * 5 + [{"hits": 0}] * 45


@pytest.mark.parametrize(
    ("stats", "keys", "suggested"),
    [
        ({}, REPEATING, []),
        ({}, CHURNING, ["requests hardly repeat"]),
        ({"expired_entries": 20}, REPEATING, ["many answers end before"]),
        ({"entries": 95, "evictions": 7}, REPEATING, ["answers go to make room"]),
        ({"entries": 95}, REPEATING, []),
        ({"memory_usage_mb": 60.0, "evictions": 7, "expired_entries": 40}, CHURNING,
         ["requests hardly repeat", "many answers end before", "answers go to make room"]),
        ({"entries": 0, "expired_entries": 0, "hit_rate": None}, [], ["the cache is empty"]),
    ],
    ids=["well", "churn", "short", "crowded", "full-but-at-rest", "all", "empty"],
)  # fmt: skip
def test_each_cause_is_named_where_its_figures_are(
    stats: dict[str, Any], keys: list[dict[str, int]], suggested: list[str]
) -> None:
    """Lifetime, room and keys that never repeat are each suggested by their own figures and by no others."""
    told = list(findings(LIMITS, WELL | stats, keys))
    assert told[1].startswith("lifetime 30m: ")
    assert [line[2:].startswith(start) for line, start in zip(told[4:], suggested, strict=True)] == [True] * len(
        suggested
    )
