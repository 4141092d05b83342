"""What begins a playbook beside alerts and people: webhooks that prove themselves, and times."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_daemon import WORKER, SmallDaemon

from watchdog.errors import ConfigError
from watchdog.notifiers.webhook import signature
from watchdog.playbooks.schema import load_playbooks
from watchdog.schedule import Schedule, Work
from watchdog.triggers import Triggers

TOKEN = "made-for-this-test"


async def triggered(small: SmallDaemon, *triggers: dict[str, Any], **more: Any) -> Path:
    """The worker's playbook gets triggers, and a token file that only we may read."""
    token = small.root / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN + "\n")
    file = small.file.parent / "playbooks/restore-worker.yaml"
    shape = {**yaml.safe_load(file.read_text()), "triggers": list(triggers), **more}
    file.write_text(yaml.safe_dump(shape, sort_keys=False))
    await small.post("/v1/reload")
    return token


def hook(small: SmallDaemon, **more: Any) -> dict[str, Any]:
    return {
        "kind": "webhook",
        "name": "restart-it",
        "token_file": str(small.root / "token"),
        "targets": [WORKER],
        **more,
    }


async def call(small: SmallDaemon, body: bytes = b"", name: str = "restart-it", **headers: str) -> tuple[int, Any]:
    """One request over the control socket, with headers of our own."""

    def ask() -> tuple[int, Any]:
        connection = http.client.HTTPConnection("localhost", timeout=45)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(small.socket))
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("POST", f"/hooks/{name}", body=body, headers=sent)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def test_a_webhook_with_its_token_begins_a_run(small: SmallDaemon) -> None:
    """The run acts, and its trigger names the webhook; a second call meanwhile is refused."""
    await triggered(small, hook(small))
    await small.post("/v1/pause", {"reason": "hold", "duration": 60})
    status, run = await call(small, authorization=f"Bearer {TOKEN}")
    assert (status, run["trigger"], run["target"]) == (202, "webhook restart-it", WORKER)
    status, again = await call(small, authorization=f"Bearer {TOKEN}")
    assert (status, again["error"]) == (409, f"run 1 of restore-worker is already under way on {WORKER}")
    assert not (small.root / "mark-0").exists(), "guards hold for it: it is paused"
    small.hang(1.0)
    await small.post("/v1/resume")
    assert (await small.get("/v1/runs/1", wait=20))["state"] == "verified"
    assert (small.root / "mark-0").exists()


async def test_guards_hold_for_a_webhook_as_for_an_alert(small: SmallDaemon) -> None:
    """A spent budget refuses it, which a person would be allowed."""
    await triggered(small, hook(small), budget={"1h": 0})
    await call(small, authorization=f"Bearer {TOKEN}")
    run = await small.get("/v1/runs/1", wait=20)
    assert run["state"] == "exhausted"
    assert run["effects"] == []


async def test_a_signature_is_as_good_while_it_is_fresh(small: SmallDaemon) -> None:
    """Signed as our own webhooks are; neither an old one, nor one over another body, nor another secret's."""
    await triggered(small, hook(small))
    body = json.dumps({"target": WORKER}).encode()
    now = f"{small.parts.clock.wall():.0f}"
    old = f"{small.parts.clock.wall() - 400:.0f}"

    async def signed(secret: str, timestamp: str, over: bytes) -> int:
        proof = signature(secret, timestamp, over)
        status, _ = await call(small, body, x_proxywatch_timestamp=timestamp, x_proxywatch_signature=proof)
        return status

    assert await signed(TOKEN, old, body) == 401
    assert await signed(TOKEN, now, b"other") == 401
    assert await signed("guessed", now, body) == 401
    assert small.parts.runs.unended() == []
    assert await signed(TOKEN, now, body) == 202


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"authorization": "Bearer guessed"}, 401), ({"authorization": TOKEN}, 401)],
    ids=["nothing", "wrong", "no-scheme"],
)
async def test_without_its_token_nothing_begins(small: SmallDaemon, headers: dict[str, str], status: int) -> None:
    """Who does not know the token is told so, and nothing else."""
    await triggered(small, hook(small))
    got, told = await call(small, **headers)
    assert got == status
    assert TOKEN not in json.dumps(told)
    assert small.parts.runs.unended() == []


async def test_a_token_that_others_may_read_is_none(small: SmallDaemon) -> None:
    """With a file of mode 644 even the right token is refused, and the hint says what to do."""
    token = await triggered(small, hook(small))
    token.chmod(0o644)
    status, told = await call(small, authorization=f"Bearer {TOKEN}")
    assert status == 500
    assert "chmod 600" in told["hint"]
    assert (await call(small, name="nope"))[0] == 404


async def test_of_several_targets_one_is_named(small: SmallDaemon) -> None:
    """None, or one that the trigger does not have, is refused: a selector is never guessed."""
    other = "worker:llm-proxy/1"
    await triggered(small, hook(small, targets=[WORKER, other]))
    assert (await call(small, authorization=f"Bearer {TOKEN}"))[0] == 400
    assert (await call(small, b'{"target": "worker:llm-proxy/2"}', authorization=f"Bearer {TOKEN}"))[0] == 400
    body = json.dumps({"target": other}).encode()
    assert (await call(small, body, authorization=f"Bearer {TOKEN}"))[1]["target"] == other


class Remembering(Schedule):
    """Keeps what it is told to run, so that a test need not wait for three o'clock."""

    def __init__(self, small: SmallDaemon) -> None:
        super().__init__(small.parts.clock)
        self.works: dict[str, tuple[Work, str, float]] = {}

    def recur(self, name: str, work: Work, *, cron: str = "", interval: float = 0.0) -> None:
        super().recur(name, work, cron=cron, interval=interval)
        self.works[name] = work, cron, interval

    def remove(self, name: str) -> None:
        super().remove(name)
        del self.works[name]


async def test_what_is_due_begins_for_each_of_its_targets(small: SmallDaemon) -> None:
    """Each schedule is a job; what runs already is skipped and recorded, a changed schedule replaces its job, and one
    that is gone takes its job along."""
    parts, other = small.parts, "worker:llm-proxy/1"
    schedule = Remembering(small)
    triggers = Triggers(schedule=schedule, runner=parts.runner, desk=parts.desk, runs=parts.runs)
    hourly = {"kind": "schedule", "every": "1h", "targets": [WORKER]}
    await triggered(small, {"kind": "schedule", "cron": "30 3 * * sun", "targets": [WORKER, other]}, hourly)
    triggers.replace(parts.runner.playbooks)
    assert [(cron, every) for _, cron, every in schedule.works.values()] == [("30 3 * * sun", 0.0), ("", 3600.0)]
    await small.post("/v1/pause", {"reason": "hold", "duration": 60})
    await schedule.works["playbook:restore-worker:0"][0]()
    await schedule.works["playbook:restore-worker:1"][0]()
    assert [(run.target, run.trigger) for run in parts.runs.unended()] == [(WORKER, "schedule"), (other, "schedule")]
    lines = (await small.get("/v1/history"))["lines"]
    (skipped,) = [line["text"] for line in lines if line["kind"] == "skipped"]
    assert (
        skipped == f"restore-worker was due by its schedule: run 1 of restore-worker is already under way on {WORKER}"
    )
    await triggered(small, {**hourly, "every": "2h"})
    triggers.replace(parts.runner.playbooks)
    assert {name: every for name, (_, _, every) in schedule.works.items()} == {"playbook:restore-worker:0": 7200.0}


async def test_a_recurring_job_runs_by_the_clock(small: SmallDaemon) -> None:
    """APScheduler really calls it, first after one interval; taken away it runs no more."""
    schedule = Schedule(small.parts.clock)
    ran = asyncio.Event()

    async def work() -> None:
        ran.set()

    schedule.recur("often", work, interval=0.05)
    schedule.start()
    assert not ran.is_set()
    await asyncio.wait_for(ran.wait(), 45)
    schedule.remove("often")
    schedule.stop()


@pytest.mark.parametrize(
    ("trigger", "says"),
    [
        ({"kind": "schedule", "targets": ["worker:a/0"]}, "exactly one of cron and every"),
        ({"kind": "schedule", "every": "1h", "cron": "0 3 * * *", "targets": ["worker:a/0"]}, "exactly one of"),
        ({"kind": "schedule", "every": "5s", "targets": ["worker:a/0"]}, "shorter than 60s"),
        ({"kind": "schedule", "cron": "0 25 * * *", "targets": ["worker:a/0"]}, "no cron expression"),
        ({"kind": "schedule", "cron": "0 3 * * 0", "targets": ["worker:a/0"]}, "by name, such as sun"),
        ({"kind": "schedule", "every": "1h", "targets": []}, "at least 1 item"),
        ({"kind": "schedule", "every": "1h", "targets": ["worker:*"]}, "incomplete"),
        ({"kind": "schedule", "every": "1h", "targets": ["host"]}, "it repairs: worker"),
        ({"kind": "webhook", "name": "Bad Name", "token_file": "t", "targets": ["worker:a/0"]}, "pattern"),
        ({"kind": "webhok", "targets": ["worker:a/0"]}, "unknown kind 'webhok'"),
    ],
    ids=["neither", "both", "too-often", "no-hour", "number", "nowhere", "pattern", "kind", "name", "unknown"],
)
def test_a_bad_trigger_is_a_mistake_in_the_file(tmp_path: Path, trigger: dict[str, Any], says: str) -> None:
    """It is refused when the file is loaded, with its place."""
    file = tmp_path / "mine.yaml"
    ladder = [{"rung": "one", "steps": [{"kind": "command", "argv": ["true"]}]}]
    shape = {"name": "mine", "targets": ["worker"], "ladder": ladder, "triggers": [trigger]}
    file.write_text(yaml.safe_dump(shape, sort_keys=False))
    with pytest.raises(ConfigError) as caught:
        load_playbooks([file])
    assert says in str(caught.value)
    assert str(file) in str(caught.value)


def test_two_playbooks_share_no_webhook_and_one_needs_a_beginning(tmp_path: Path) -> None:
    """The same webhook twice is a mistake, and so is a playbook that nothing would ever begin."""
    ladder = [{"rung": "one", "steps": [{"kind": "command", "argv": ["true"]}]}]
    webhook = {"kind": "webhook", "name": "go", "token_file": "t", "targets": ["host"]}
    files = []
    for name in ("one", "two"):
        files.append(tmp_path / f"{name}.yaml")
        files[-1].write_text(
            yaml.safe_dump({"name": name, "targets": ["host"], "ladder": ladder, "triggers": [webhook]})
        )
    assert set(load_playbooks(files[:1])) == {"one"}
    with pytest.raises(ConfigError, match="another playbook has a webhook 'go'"):
        load_playbooks(files)
    files[0].write_text(yaml.safe_dump({"name": "one", "targets": ["host"], "ladder": ladder}))
    with pytest.raises(ConfigError, match="needs `answers` or `triggers`"):
        load_playbooks(files[:1])


async def test_a_run_that_nobody_watched_does_not_fail_in_silence(small: SmallDaemon) -> None:
    """A scheduled run without an incident that fails is measured as failed until one works; a person's own run is not,
    for they saw it."""
    parts = small.parts
    triggers = Triggers(schedule=Schedule(parts.clock), runner=parts.runner, desk=parts.desk, runs=parts.runs)
    ladder = [{"rung": "one", "steps": [{"kind": "command", "argv": ["false"], "disruptive": False}]}]
    await triggered(small, ladder=ladder, budget={"1h": 10})
    playbook = parts.runner.playbooks["restore-worker"]

    def failed() -> list[tuple[dict[str, str], float]]:
        found = triggers.samples(parts.clock.now())
        return [(dict(one.labels), one.value) for one in found if one.name == "proxywatch_run_failed"]

    await parts.runner.finished(parts.runner.begin(None, playbook, WORKER, trigger="person").id)
    assert failed() == []
    await parts.runner.finished(triggers.fire(playbook, WORKER, "schedule").id)
    who = {"playbook": "restore-worker", "subject": WORKER}
    assert failed() == [(who, 1.0)]
    ladder[0]["steps"] = [{"kind": "command", "argv": ["true"], "disruptive": False}]
    await triggered(small, ladder=ladder, budget={"1h": 10})
    await parts.runner.finished(triggers.fire(parts.runner.playbooks["restore-worker"], WORKER, "schedule").id)
    assert failed() == [(who, 0.0)]
