"""The control API over its real socket: what it shows, what it changes, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace

import pytest
from small_daemon import WORKER, SmallDaemon

from watchdog.cli.control import RefusedRequest
from watchdog.core.model import Outcome
from watchdog.core.permission import Window
from watchdog.playbooks.guards import DAY_SECONDS


async def refused(small: SmallDaemon, method: str, path: str, body: dict[str, object] | None = None) -> RefusedRequest:
    with pytest.raises(RefusedRequest) as caught:
        await (small.get(path) if method == "GET" else small.post(path, body))
    assert caught.value.hint, "every refusal says what to do"
    return caught.value


async def test_status_turns_from_ok_to_critical_with_the_alert(small: SmallDaemon) -> None:
    """The verdict is ok, then critical as soon as something critical fires, and names it."""
    before = await small.get("/v1/status")
    assert before["verdict"] == {"state": "ok", "text": "all well"}
    small.parts.loaded.config.probes["front"]
    small.measured("proxywatch_service_up", 1, service="llm-proxy")
    small.hang()
    after = await small.get("/v1/status")
    assert after["verdict"]["state"] == "critical"
    assert "Worker 0 hangs" in after["verdict"]["text"]
    assert after["services"][0]["state"] == "running"
    assert [(i["target"], i["run"]["playbook"]) for i in after["incidents"]] == [(WORKER, "restore-worker")]
    assert after["alerts"][0]["incident"] == after["incidents"][0]["id"]
    assert after["now"]["iso"].endswith("Z")
    assert abs(after["now"]["epoch"] - small.parts.clock.now()) < 30


async def test_numbers_that_json_lacks_are_spelt_as_prometheus_does(small: SmallDaemon) -> None:
    """An alert or a query whose value is infinite or no number is still valid JSON."""
    small.measured("strange_ratio", float("inf"))
    small.measured("nothing_ratio", float("nan"))
    assert (await small.get("/v1/alerts"))["alerts"][0]["value"] == "+Inf"
    assert (await small.get("/v1/query", expr="nothing_ratio"))["result"][0]["value"] == "NaN"
    assert (await small.get("/v1/query", expr="1 + 1"))["result"] == 2
    error = await refused(small, "GET", "/v1/query?expr=sum(")
    assert error.status == 400


async def test_an_incident_tells_its_whole_story(small: SmallDaemon) -> None:
    """Timeline with offsets, runs with attempts and effects, and the times to detect, act and repair."""
    small.hang()
    incident = (await small.get("/v1/incidents"))["incidents"][0]
    while not list(small.root.glob("mark-*")):
        await small.parts.bell.wait(0.05)
    small.hang(1.0)
    run = await small.get(f"/v1/runs/{incident['run']['id']}", wait=20)
    assert run["state"] == "verified"
    whole = await small.get(f"/v1/incidents/{incident['id']}")
    assert whole["state"] == "resolved"
    assert whole["healed"] is True
    kinds = [entry["kind"] for entry in whole["timeline"]]
    assert kinds[0] == "opened"
    assert kinds[-1] == "resolved"
    assert [e["outcome"] for e in whole["runs"][0]["effects"]] == ["done"]
    assert [a["outcome"] for a in whole["runs"][0]["attempts"]] == ["skipped", "verified"]
    assert all(whole[key] is not None for key in ("seconds_to_detect", "seconds_to_act", "seconds_to_repair"))
    assert (await small.get("/v1/incidents"))["incidents"] == []
    assert len((await small.get("/v1/incidents", all=1))["incidents"]) == 1
    assert (await refused(small, "GET", "/v1/incidents/99")).status == 404
    assert (await refused(small, "POST", f"/v1/incidents/{incident['id']}/ack")).status == 409


async def test_the_kernel_says_who_acknowledged(small: SmallDaemon) -> None:
    """The name beside an acknowledgement and a pause is of the process that called, not what it claims."""
    small.measured("strange_ratio", 2)
    identifier = (await small.get("/v1/incidents"))["incidents"][0]["id"]
    shape = await small.post(f"/v1/incidents/{identifier}/ack", {"who": "the boss"})
    assert f"uid {os.getuid()}" in shape["acknowledged_by"]
    assert "boss" not in shape["acknowledged_by"]
    paused = await small.post("/v1/pause", {"reason": "maintenance", "duration": 60})
    assert f"uid {os.getuid()}" in paused["pauses"][0]["by"]


async def test_a_dry_run_changes_nothing(small: SmallDaemon) -> None:
    """Everything that would happen is shown, and afterwards neither the store nor the disk has changed."""
    small.measured("strange_ratio", 2)
    before = small.rows()
    shape = await small.post("/v1/playbooks/restore-worker/run", {"target": WORKER, "dry_run": True})
    wait, mark = shape["ladder"]
    assert wait["applies"] is False
    assert mark["steps"][0]["does"] == f"run touch {small.root / 'mark-0'}"
    assert mark["steps"][0]["disruptive"] is True
    assert mark["guards"] == {"allowed": True, "denials": []}
    assert small.rows() == before
    assert not list(small.root.glob("mark-*"))


async def test_a_dry_run_shows_what_the_guards_refuse(small: SmallDaemon) -> None:
    """While paused every rung that a run would come to is shown as refused, with the pause's end."""
    await small.post("/v1/pause", {"reason": "no", "duration": 600})
    shape = await small.post("/v1/playbooks/restore-worker/run", {"target": WORKER, "dry_run": True})
    denial = shape["ladder"][1]["guards"]["denials"][0]
    assert denial["reason"] == "paused"
    assert 500 < denial["until"]["epoch"] - shape["now"]["epoch"] <= 600
    assert (await small.post("/v1/resume"))["ended"] == 1
    again = await small.post("/v1/playbooks/restore-worker/run", {"target": WORKER, "dry_run": True})
    assert again["ladder"][1]["guards"]["allowed"] is True


async def test_a_person_runs_a_playbook(small: SmallDaemon) -> None:
    """A run by a person acts, verifies by what is measured, and can be waited for."""
    small.hang(1.0)
    shape = await small.post("/v1/playbooks/restore-worker/run", {"target": WORKER})
    assert shape["trigger"] == "person"
    run = await small.get(f"/v1/runs/{shape['id']}", wait=20)
    assert run["state"] == "verified"
    assert run["running"] is None
    assert (small.root / "mark-0").exists()


async def test_a_second_run_for_the_same_incident_is_refused(small: SmallDaemon) -> None:
    """While a run is under way for an incident nobody starts another one."""
    await small.post("/v1/pause", {"reason": "hold still"})
    small.hang()
    error = await refused(small, "POST", "/v1/playbooks/restore-worker/run", {"target": WORKER})
    assert error.status == 409
    assert "already under way" in str(error)


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/playbooks/nope/run", {"target": WORKER}, 404, "no playbook"),
        ("/v1/playbooks/restore-worker/run", {}, 400, "target"),
        ("/v1/playbooks/restore-worker/run", {"target": "worker:"}, 400, "incomplete"),
        ("/v1/playbooks/restore-worker/run", {"target": "provider:x"}, 400, "cannot repair a provider"),
        ("/v1/playbooks/restore-worker/run", {"target": "worker:other/0"}, 400, "no service"),
        ("/v1/incidents/7/ack", {}, 404, "no incident 7"),
        ("/v1/probes/nope/run", {}, 404, "no probe"),
        ("/v1/pause", {"duration": -1}, 400, "duration"),
        ("/v1/nothing", {}, 404, "Not Found"),
    ],
)
async def test_what_cannot_be_done_says_why(
    small: SmallDaemon, path: str, body: dict[str, object], status: int, says: str
) -> None:
    """Each refusal has a fitting status, names what is wrong, and hints at what to do."""
    error = await refused(small, "POST", path, body)
    assert error.status == status
    assert says in str(error)


async def test_explain_names_the_refusal_and_its_end(small: SmallDaemon) -> None:
    """Once the budget is spent, explain says so, how much was used, and when one effect is free again."""
    small.hang(1.0)
    for _ in range(2):
        shape = await small.post("/v1/playbooks/restore-worker/run", {"target": WORKER})
        await small.get(f"/v1/runs/{shape['id']}", wait=20)
    subject = (await small.get("/v1/explain", target=WORKER))["subjects"][0]
    assert subject["incident"] is None
    assert {d["reason"] for d in subject["next"]["denials"]} == {"budget", "backoff"}
    assert subject["next"]["final"] is True
    spent = subject["budgets"][0]
    assert (spent["used"], spent["allowed"], spent["left"]) == (2, 2, 0)
    assert 3500 < spent["frees_at"]["epoch"] - small.parts.clock.now() <= 3600
    assert subject["backoff"]["effects"] == 2
    words = " ".join(subject["sentences"])
    assert "There is no unresolved incident" in words
    assert "2 of 2 disruptive effects used in 1h" in words
    assert "a person is told instead" in words


async def test_explain_counts_the_hosts_budget_as_the_guards_do(small: SmallDaemon) -> None:
    """What was done about callers is not the host's, and a window of more than a day counts all of it."""
    guards, runs, now = small.parts.runner.guards, small.parts.runs, small.parts.clock.now()
    guards.limits = replace(guards.limits, host_budget=(Window(3600, 10), Window(7 * DAY_SECONDS, 20)))
    for target, ago in (
        ("service:llm-proxy", 60.0),
        ("service:llm-proxy", 2 * DAY_SECONDS),
        ("source:192.0.2.1", 60.0),
    ):
        run = runs.begin(incident_id=None, playbook="p", target=target, trigger="alert", labels={}, now=now - ago)
        effect = runs.intend(
            run, rung="r", attempt=0, step=0, action="command", arguments={}, survey={}, disruptive=True, now=now - ago
        )
        runs.conclude(effect, Outcome.DONE, "", now - ago)
        runs.end(run, "verified", now - ago)
    (subject,) = (await small.get("/v1/explain", target=WORKER))["subjects"]
    host = [(b["window_seconds"], b["used"]) for b in subject["budgets"] if b["scope"] == "this host"]
    assert host == [(3600, 1), (7 * DAY_SECONDS, 2)]


async def test_explain_says_why_nothing_local_is_touched(small: SmallDaemon) -> None:
    """For a provider it says that no local process is touched and why, and why the playbook does not act."""
    small.measured("provider_fault", 1, provider="primary")
    (subject,) = (await small.get("/v1/explain"))["subjects"]
    words = " ".join(subject["sentences"])
    assert subject["remote"] is True
    assert "No local process is touched" in words
    assert "outside this host" in words
    assert "observe" in words
    assert subject["playbook"] == "provider-failover"


async def test_explain_says_why_no_playbook_answers(small: SmallDaemon) -> None:
    """An incident that nothing repairs is explained as such; unknown things are refused by name."""
    small.measured("strange_ratio", 2)
    (subject,) = (await small.get("/v1/explain"))["subjects"]
    assert subject["playbook"] is None
    assert "none can repair a target of kind cache" in " ".join(subject["sentences"])
    assert (await refused(small, "GET", "/v1/explain?target=moon:1")).status == 400
    assert (await refused(small, "GET", "/v1/explain?incident=99")).status == 404


async def test_explain_tells_a_run_that_waits(small: SmallDaemon) -> None:
    """While a run waits it names the run, its rung and what it waits for."""
    await small.post("/v1/pause", {"reason": "hold still", "duration": 300})
    small.hang()
    await small.parts.bell.wait(0.3)
    (subject,) = (await small.get("/v1/explain"))["subjects"]
    assert (subject["now"]["rung"], subject["now"]["doing"]) == ("mark", "waiting")
    assert subject["next"]["denials"][0]["reason"] == "paused"
    assert any("hold still" in sentence for sentence in subject["sentences"])


async def test_a_probe_is_run_at_once_and_its_failure_is_a_result(small: SmallDaemon) -> None:
    """Asking for a measurement gives its samples; a target that does not answer is a failed result."""
    shape = await small.post("/v1/probes/front/run")
    assert shape["state"] == "failed"
    assert {"name": "probe_success", "labels": {"kind": "http", "probe": "front"}, "value": 0.0} in shape["last"][
        "samples"
    ]
    listed = (await small.get("/v1/probes"))["probes"][0]
    assert listed["last"]["error"]


async def test_a_refused_reload_says_file_and_line_and_changes_nothing(small: SmallDaemon) -> None:
    """A broken file is refused with 422 and its place; rules stay, and status shows the refusal until a good reload."""
    rules = small.root / "config/rules/small.yaml"
    good = rules.read_text()
    rules.write_text(good.replace("expr: provider_fault == 1", "expr: provider_fault =="))
    error = await refused(small, "POST", "/v1/reload")
    assert error.status == 422
    assert "small.yaml:" in str(error)
    assert len((await small.get("/v1/rules"))["rules"]) == 3
    assert (await small.get("/v1/status"))["verdict"]["state"] == "warning"
    rules.write_text(good)
    assert (await small.post("/v1/reload"))["done"]
    assert (await small.get("/v1/status"))["config"]["reload_error"] == ""


async def test_the_stream_tells_what_happens_and_ends_with_the_server(small: SmallDaemon) -> None:
    """The first line comes at once, the next when something happened, and stopping the server ends it in good order."""
    reader, writer = await asyncio.open_unix_connection(str(small.socket))
    writer.write(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n")

    async def line() -> dict[str, object]:
        while True:
            text = await asyncio.wait_for(reader.readline(), 45)
            assert text, "the stream ended too early"
            if text.startswith(b"{"):
                return json.loads(text)

    assert (await line())["verdict"]["state"] == "ok"
    small.hang()
    assert (await line())["verdict"]["state"] == "critical"
    await asyncio.wait_for(small.server.stop(), 45)
    assert (await asyncio.wait_for(reader.read(), 45)).endswith(b"0\r\n\r\n")
    writer.close()
    await writer.wait_closed()


async def test_playbooks_are_shown_as_they_are_in_force(small: SmallDaemon) -> None:
    """Matchers, own budget and the ladder with its steps and verification."""
    shape = await small.get("/v1/playbooks/restore-worker")
    assert shape["answers"] == ['alertname="WorkerHung"']
    assert shape["budget"] == [{"window_seconds": 3600.0, "allowed": 2}]
    assert [rung["rung"] for rung in shape["ladder"]] == ["wait", "mark"]
    assert shape["ladder"][1]["steps"][0]["kind"] == "command"
    names = [p["name"] for p in (await small.get("/v1/playbooks"))["playbooks"]]
    assert names == ["provider-failover", "restore-worker"]
