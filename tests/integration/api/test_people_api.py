"""What people decide over the control API: approvals, cancellations, silences, maintenance, and how they are shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from small_daemon import WORKER, SmallDaemon

from watchdog.cli.control import RefusedRequest


async def refused(small: SmallDaemon, path: str, body: dict[str, object] | None = None) -> RefusedRequest:
    with pytest.raises(RefusedRequest) as caught:
        await small.post(path, body)
    assert caught.value.hint, "every refusal says what to do"
    return caught.value


async def asks_first(small: SmallDaemon) -> None:
    """From now on the worker's playbook asks a person."""
    file = small.file.parent / "playbooks/restore-worker.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "autonomy": "approve"}, sort_keys=False))
    await small.post("/v1/reload")


async def until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    async with asyncio.timeout(seconds):
        while not (value := condition()):
            await asyncio.sleep(0.01)
    return value


async def asked(small: SmallDaemon) -> dict[str, Any]:
    """The worker hangs, and its repair asks for leave: the question as `status` shows it."""
    await asks_first(small)
    small.hang()
    await until(lambda: [run for run in small.parts.runs.unended() if run.approval is not None])
    (one,) = (await small.get("/v1/status"))["approvals"]
    return dict(one)


async def test_an_approved_repair_acts_and_is_shown_until_then(small: SmallDaemon) -> None:
    """Status names the run that waits, what it would do and until when; after the approval it acts and verifies."""
    one = await asked(small)
    assert (one["playbook"], one["target"], one["rung"]) == ("restore-worker", WORKER, "mark")
    assert one["does"] == [f"run touch {small.root / 'mark-0'}"]
    assert one["until"]["epoch"] > one["asked_at"]["epoch"]
    assert "proxywatch approve 1" in (await small.get("/v1/status"))["verdict"]["text"]
    assert not (small.root / "mark-0").exists()
    shape = await small.post(f"/v1/runs/{one['run']}/approve")
    assert shape["approval"]["granted"] is True
    assert "uid" in shape["approval"]["by"]
    await until((small.root / "mark-0").exists)
    small.hang(1.0)
    assert (await small.get(f"/v1/runs/{one['run']}", wait=20))["state"] == "verified"
    assert (await small.get("/v1/status"))["approvals"] == []


async def test_a_denied_repair_is_refused_and_says_by_whom(small: SmallDaemon) -> None:
    """The run ends without acting, the incident is a person's, and a second answer is refused."""
    one = await asked(small)
    await small.post(f"/v1/runs/{one['run']}/deny")
    run = await small.get(f"/v1/runs/{one['run']}", wait=20)
    assert run["state"] == "refused"
    assert not (small.root / "mark-0").exists()
    assert (await small.get(f"/v1/incidents/{one['incident']}"))["escalated_at"] is not None
    again = await refused(small, f"/v1/runs/{one['run']}/approve")
    assert (again.status, str(again)) == (409, f"run {one['run']} is over already: refused")
    assert (await refused(small, "/v1/runs/99/deny")).status == 404


async def test_a_cancelled_run_ends_and_its_incident_is_left_to_people(small: SmallDaemon) -> None:
    """The run ends as cancelled, and the summary says who wants the incident to be left alone."""
    one = await asked(small)
    await small.post(f"/v1/runs/{one['run']}/cancel")
    assert (await small.get(f"/v1/runs/{one['run']}", wait=20))["state"] == "cancelled"
    assert "uid" in (await small.get(f"/v1/incidents/{one['incident']}"))["hands_off"]
    again = await refused(small, f"/v1/runs/{one['run']}/cancel")
    assert (again.status, str(again)) == (409, f"run {one['run']} is over already: cancelled")


async def test_a_silence_is_made_shown_and_ended(small: SmallDaemon) -> None:
    """It names its matchers, its end, who made it and what it holds back; ended, it is gone."""
    small.measured("strange_ratio", 2)
    body = {"matchers": "alertname=Strange, severity=~'warning|info'".replace("'", '"'), "duration": 600}
    made = await small.post("/v1/silences", {**body, "comment": "known"})
    (shown,) = (await small.get("/v1/silences"))["silences"]
    assert {**made, "now": None} == {**shown, "now": None}
    assert shown["matchers"] == 'alertname="Strange", severity=~"warning|info"'
    assert (shown["covers"], shown["comment"]) == ([1], "known")
    assert 590 < shown["until"]["epoch"] - made["now"]["epoch"] <= 600
    assert (await small.get("/v1/status"))["silences"] == [shown]
    assert (await small.post(f"/v1/silences/{made['id']}/expire"))["silences"] == []
    assert (await refused(small, f"/v1/silences/{made['id']}/expire")).status == 404


@pytest.mark.parametrize(
    "body",
    [
        {"matchers": "", "duration": 60},
        {"matchers": 'severity=~".*"', "duration": 60},
        {"matchers": "severity", "duration": 60},
        {"matchers": 'severity=~"("', "duration": 60},
        {"matchers": "severity=critical"},
        {"matchers": "severity=critical", "duration": -1},
        {"duration": 60},
    ],
    ids=["empty", "everything", "no-operator", "bad-pattern", "endless", "backwards", "nothing"],
)
async def test_a_silence_of_everything_or_for_ever_is_refused(small: SmallDaemon, body: dict[str, object]) -> None:
    """An empty selector is an error, never «all», and every silence ends."""
    assert (await refused(small, "/v1/silences", body)).malformed
    assert (await small.get("/v1/silences"))["silences"] == []


async def test_under_maintenance_nothing_acts_until_its_end(small: SmallDaemon) -> None:
    """A window over the service keeps the worker's repair waiting; ended, it acts."""
    made = await small.post("/v1/maintenance", {"targets": ["service:llm-proxy"], "duration": 600, "comment": "disk"})
    small.hang()
    (incident,) = (await small.get("/v1/incidents"))["incidents"]
    await until(lambda: small.parts.runner.clearance.waiting(incident["run"]["id"]))
    (shown,) = (await small.get("/v1/status"))["maintenance"]
    assert (shown["targets"], shown["covers"], shown["comment"]) == (["service:llm-proxy"], [incident["id"]], "disk")
    assert not (small.root / "mark-0").exists()
    await small.post(f"/v1/maintenance/{made['id']}/end")
    await until((small.root / "mark-0").exists)
    assert (await refused(small, f"/v1/maintenance/{made['id']}/end")).status == 404


@pytest.mark.parametrize("targets", [[], ["moon:1"], ["worker:llm-proxy"], "service:llm-proxy"], ids=str)
async def test_maintenance_of_nothing_is_refused(small: SmallDaemon, targets: object) -> None:
    """No target, an unknown kind or half a name is a mistake, not a window that covers nothing."""
    assert (await refused(small, "/v1/maintenance", {"targets": targets, "duration": 60})).malformed
    assert (await small.get("/v1/maintenance"))["maintenance"] == []


async def test_the_kill_switch_is_a_pause_and_resume_takes_it_back(small: SmallDaemon) -> None:
    """A file that somebody touched shows as a pause, and `resume` removes it with the daemon's own pauses."""
    switch = small.parts.loaded.config.state_dir / "pause"
    switch.touch()
    await small.post("/v1/pause", {"reason": "me too"})
    shown = (await small.get("/v1/status"))["pauses"]
    assert [pause["by"] for pause in shown][1] == "kill switch"
    assert shown[1]["since"] is None
    assert (await small.post("/v1/resume"))["ended"] == 2
    assert not switch.exists()
    assert (await small.get("/v1/status"))["pauses"] == []
