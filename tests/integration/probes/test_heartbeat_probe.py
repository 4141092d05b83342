"""The heartbeat probe over a real store: what is due, what was reported, and that it outlives the agent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from watchdog.clock import SystemClock
from watchdog.errors import ProbeError
from watchdog.probes import Memory, ProbeContext
from watchdog.probes.heartbeat import Heartbeat, HeartbeatProbe, HeartbeatProbeSettings, keep, recall
from watchdog.store.database import Database
from watchdog.store.facts import Facts
from watchdog.system.http import HttpClient

T0 = 1_700_000_000.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "facts.db")
    yield made
    made.close()


def probe_of(http: HttpClient, memory: Memory | None, **more: Any) -> HeartbeatProbe:
    shape = {"kind": "heartbeat", "period": "1h", "grace": "10m", **more}
    settings = HeartbeatProbeSettings.model_validate(shape)
    return HeartbeatProbe(settings, ProbeContext("backup", SystemClock(), http, {}, {}, memory))


async def figures(probe: HeartbeatProbe) -> dict[str, float]:
    measurement = await probe.measure()
    assert all(sample.labels == (("heartbeat", "backup"),) for sample in measurement.samples)
    return {sample.name.removeprefix("heartbeat_"): sample.value for sample in measurement.samples}


async def test_the_first_success_is_due_from_the_first_look(database: Database, http: HttpClient) -> None:
    """A job that never reports becomes overdue; when depends on the first look, also after a restart."""
    before = SystemClock().now()
    first = await figures(probe_of(http, Facts(database)))
    assert set(first) == {"due_timestamp_seconds", "running", "reports_total"}
    assert 0 <= first["due_timestamp_seconds"] - 4200 - before < 60
    again = await figures(probe_of(http, Facts(database)))
    assert again["due_timestamp_seconds"] == first["due_timestamp_seconds"]


async def test_reports_are_figures_until_the_next_ones(database: Database, http: HttpClient) -> None:
    """A success moves what is due, a failure does not; a start shows how long it runs; the text is the note."""
    facts = Facts(database)
    probe = probe_of(http, facts, max_runtime="30m")
    story = recall(facts, "backup", T0).reported("start", T0 + 1).reported("end", T0 + 61)
    keep(facts, "backup", story)
    assert await figures(probe) == {
        "due_timestamp_seconds": T0 + 61 + 4200,
        "last_success_timestamp_seconds": T0 + 61,
        "last_exit_code": 0,
        "last_duration_seconds": 60,
        "running": 0,
        "max_runtime_seconds": 1800,
        "reports_total": 2,
    }
    keep(facts, "backup", story.reported("end", T0 + 900, 3, "disk full").reported("start", SystemClock().now()))
    found = await figures(probe)
    assert (found["due_timestamp_seconds"], found["last_exit_code"]) == (T0 + 61 + 4200, 3)
    assert found["running"] == 1
    assert 0 <= found["running_seconds"] < 60
    assert "last_duration_seconds" not in found
    assert (await probe.measure()).note == "disk full"


def test_a_text_alone_changes_nothing_else() -> None:
    """It is neither a start nor an end, and it is kept short."""
    before = Heartbeat(T0).reported("start", T0)
    after = before.reported("log", T0 + 5, log="x" * 10_000)
    assert after == replace(before, log="x" * 500, reports=2)


async def test_without_a_memory_nothing_is_known(database: Database, http: HttpClient) -> None:
    """By itself, and while the store cannot be read, the measurement fails with its reason."""
    with pytest.raises(ProbeError, match="the running daemon only"):
        await probe_of(http, None).measure()
    database.execute("DROP TABLE facts")
    with pytest.raises(ProbeError, match="facts"):
        await probe_of(http, Facts(database)).measure()
