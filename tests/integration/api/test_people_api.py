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


async def until(condition: Callable[[], Any], seconds: float = 45.0) -> Any:
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


@pytest.mark.parametrize(
    ("path", "body", "better"),
    [
        ("/v1/maintenance", {"targets": ["service:lm-proxy"]}, "did you mean service:llm-proxy?"),
        ("/v1/maintenance", {"targets": ["host", "worker:llm-prxy/*"]}, "did you mean worker:llm-proxy/*?"),
        ("/v1/maintenance", {"targets": ["probe:zzz"]}, "there are front"),
        ("/v1/silences", {"matchers": 'target="worker:llm-prox/0"'}, "did you mean worker:llm-proxy/0?"),
        ("/v1/silences", {"matchers": 'alertname="A", service="lm-proxy"'}, "did you mean service=llm-proxy?"),
    ],
    ids=["service", "pattern", "probe", "silence-target", "silence-service"],
)
async def test_what_is_not_there_is_refused_unless_forced(
    small: SmallDaemon, path: str, body: dict[str, object], better: str
) -> None:
    """Quiet for a name that was misspelt would be no quiet: refused with the nearest name; `force` takes it."""
    answer = await refused(small, path, {**body, "duration": 60})
    assert answer.status == 404
    assert answer.hint.startswith(better)
    assert (await small.post(path, {**body, "duration": 60, "force": True}))["id"]


async def test_the_kill_switch_is_a_pause_and_resume_takes_it_back(small: SmallDaemon) -> None:
    """A file that somebody touched shows as a pause, and `resume` removes it with the daemon's own pauses."""
    switch = small.parts.loaded.config.state_dir / "pause"
    switch.touch()
    await small.post("/v1/pause", {"reason": "me too"})
    shown = (await small.get("/v1/status"))["pauses"]
    assert [pause["by"] for pause in shown][1] == "kill switch"
    assert shown[1]["since"] is None
    await small.parts.surroundings.watch(small.parts.runner.guards.limits.storm)
    assert (await small.post("/v1/resume"))["ended"] == 2
    assert (await small.post("/v1/resume"))["ended"] == 0
    told = [line.text for line in small.parts.desk.history.since(0.0) if line.kind in {"paused", "resumed"}]
    assert told[1] == f"by the kill switch: the file {switch} exists"
    assert [text.split(": ", 1)[1] for text in told[2:]] == ["2 pauses ended"], "a resume of nothing is nothing"
    assert not switch.exists()
    assert (await small.get("/v1/status"))["pauses"] == []


async def words(small: SmallDaemon, **asked: object) -> str:
    (subject,) = (await small.get("/v1/explain", **asked))["subjects"]
    return " ".join(subject["sentences"])


async def test_explain_says_who_is_asked_and_until_when(small: SmallDaemon) -> None:
    """A run that waits names the way to answer it; a cancelled one, who wants the incident to be left alone."""
    one = await asked(small)
    told = await words(small, incident=one["incident"])
    assert "Its autonomy is approve: it asks a person before it acts." in told
    assert "Run 1 asks for leave since " in told
    assert "`proxywatch approve 1` or `proxywatch deny 1`; no answer within 1h counts as no." in told
    assert "waiting for a person's approval; that ends in " in told
    await small.post("/v1/runs/1/cancel")
    await small.get("/v1/runs/1", wait=20)
    assert "cancelled its repair: until it is over, only a person begins another one." in await words(
        small, incident=one["incident"]
    )


async def test_explain_says_that_a_person_was_called(small: SmallDaemon) -> None:
    """After a no the incident is a person's, and it says since when and why."""
    one = await asked(small)
    await small.post("/v1/runs/1/deny")
    await small.get("/v1/runs/1", wait=20)
    told = await words(small, incident=one["incident"])
    assert "It was given to a person " in told
    assert "denied it." in told
    assert "It was given up not long ago: it is tried again in 5m at the earliest." in told
    assert "The guards allow that now." not in told


async def test_explain_names_silence_maintenance_and_pause_with_their_ends(small: SmallDaemon) -> None:
    """What keeps people from hearing and the agent from acting is named, each with the time that it has left."""
    await small.post("/v1/silences", {"matchers": "alertname=WorkerHung", "duration": 600, "comment": "known"})
    await small.post("/v1/maintenance", {"targets": ["worker:*"], "duration": 1200, "comment": "new disk"})
    await small.post("/v1/pause", {"reason": "no", "duration": 1800})
    small.hang()
    told = await words(small, target=WORKER)
    assert "Nobody is told of it for 10m more: silence " in told
    assert "(known)" in told
    assert f"{WORKER} is left to people for " in told
    assert "(new disk)" in told
    (paused,) = (await small.get("/v1/explain"))["paused"]
    assert paused.split(": ", 1)[1].startswith("no (ends in ")


async def test_explain_names_what_explains_a_suppressed_incident(small: SmallDaemon) -> None:
    """While its service is being repaired a cache's incident only waits, and says for what."""
    await asks_first(small)
    small.hang()
    small.measured("strange_ratio", 2)
    small.parts.desk.suppress(2, "service:llm-proxy explains it (incident 1); nothing is done here while that lasts")
    assert "and is suppressed: service:llm-proxy explains it (incident 1)" in await words(small, incident=2)


async def test_a_dry_run_tells_what_the_rung_would_do_by_itself(small: SmallDaemon) -> None:
    """The guards allow it to a person; begun by an alert it would ask first, and the plan says so."""
    await asks_first(small)
    plan = await small.post("/v1/playbooks/restore-worker/run", {"target": WORKER, "dry_run": True})
    mark = plan["ladder"][1]
    assert (mark["autonomy"], mark["guards"]) == ("approve", {"allowed": True, "denials": []})
    assert [denial["reason"] for denial in mark["by_itself"]["denials"]] == ["approval"]
    observed = await small.post("/v1/playbooks/provider-failover/run", {"target": "provider:x", "dry_run": True})
    assert [denial["reason"] for denial in observed["ladder"][0]["by_itself"]["denials"]][:1] == ["observe_only"]
    assert small.parts.runs.unended() == []
