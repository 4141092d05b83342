"""The history: one timeline of incidents, runs, effects and what people decided."""

from __future__ import annotations

from typing import Any

import pytest
from small_daemon import WORKER, SmallDaemon

from watchdog.cli.control import RefusedRequest


async def lines(small: SmallDaemon, **query: object) -> list[dict[str, Any]]:
    shape = await small.get("/v1/history", **query)
    return list(shape["lines"])


async def healed(small: SmallDaemon) -> None:
    small.hang()
    while not list(small.root.glob("mark-*")):
        await small.parts.bell.wait(0.05)
    small.hang(1.0)
    await small.get("/v1/runs/1", wait=20)


async def test_incidents_and_decisions_stand_in_one_order(small: SmallDaemon) -> None:
    """What people decided stands between what happened, oldest first, and evidence is left to `incident show`."""
    await small.post("/v1/maintenance", {"targets": ["provider:*"], "duration": 60, "comment": "contract"})
    await healed(small)
    await small.post("/v1/pause", {"reason": "enough", "duration": 60})
    await small.post("/v1/resume")
    found = await lines(small)
    kinds = [line["kind"] for line in found]
    assert kinds[0] == "maintenance"
    assert kinds[1] == "opened"
    assert kinds[-3:] == ["resolved", "paused", "resumed"]
    assert {"run", "intent", "done", "rung_verified", "verified"} <= set(kinds)
    times = [line["at"]["epoch"] for line in found]
    assert times == sorted(times)
    assert {(line["incident"], line["target"]) for line in found} == {(1, WORKER), (None, "")}


async def test_a_run_without_an_incident_is_in_it(small: SmallDaemon) -> None:
    """Who asked, the begin, the effect and the end, each with its target."""
    small.hang(1.0)
    run = await small.post("/v1/playbooks/restore-worker/run", {"target": WORKER})
    await small.get(f"/v1/runs/{run['id']}", wait=20)
    found = await lines(small)
    assert sorted(line["kind"] for line in found) == ["asked", "done", "run", "verified"]
    assert [line["text"] for line in found if line["kind"] == "verified"] == ["run 1 of restore-worker: verified"]
    assert {line["target"] for line in found if line["kind"] != "asked"} == {WORKER}


async def test_of_a_target_is_shown_what_concerns_it(small: SmallDaemon) -> None:
    """A service shows its workers and caches, another target nothing of them, and a pause is for all."""
    await healed(small)
    small.measured("strange_ratio", 2)
    await small.post("/v1/pause", {"reason": "enough", "duration": 60})
    assert {line["incident"] for line in await lines(small, target="service:llm-proxy")} == {1, 2, None}
    assert {line["incident"] for line in await lines(small, target=WORKER)} == {1, None}
    assert [line["kind"] for line in await lines(small, target="host")] == ["paused"]
    with pytest.raises(RefusedRequest) as caught:
        await lines(small, target="moon")
    assert caught.value.malformed


async def test_what_is_older_is_left_out_and_forgotten(small: SmallDaemon) -> None:
    """`since` bounds what is shown; housekeeping removes what is too old for good."""
    await small.post("/v1/pause", {"reason": "enough", "duration": 60})
    small.daemon.database.execute("UPDATE happenings SET at = at - 1000")
    assert await lines(small, since=900) == []
    assert len(await lines(small, since=1100)) == 1
    small.parts.desk.incidents.prune(small.parts.clock.now() - 900)
    assert await lines(small, since=1100) == []
