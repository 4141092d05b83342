"""What `proxywatch install` put onto a host heals by itself, and what it leaves to others, in one container."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from bare_host import URL, BareHost
from booted_system import BootedSystem, BootError, unfit

sys.path.append(str(Path(__file__).parents[1] / "e2e"))

from planted.planting import build, line

from watchdog.journal.message_ids import MESSAGE_IDS

PROXY, AGENT = "llm-proxy.service", "proxywatch.service"
RESOLVED, OPENED = MESSAGE_IDS["resolved"], MESSAGE_IDS["opened"]
SERVICE, WORKER = "service:llm-proxy", "worker:llm-proxy/0"
OF_AGENT = f"_SYSTEMD_UNIT={AGENT}"
LEAKS = "worker:llm-proxy/1"
CASES = "/cases.json"
"""Where the planted code looks for it in a unit, whose working directory is the root."""
QUICK = {
    "/etc/proxywatch/rules/memory.yaml": {">= 1800": ">= 5", "for: 5m": "for: 300ms"},
    "/etc/proxywatch/playbooks/stop-leak.yaml": {
        "settle: 5s, hold: 5s, within: 1m": "settle: 1s, hold: 1s, within: 3s",
        "duration: 5m, snapshots: 4, share: 0.1": "duration: 6s, quiet: 1s, snapshots: 4, share: 0.3",
    },
    "/etc/proxywatch/proxywatch.yaml": {
        "{kind: memory_leak, service: llm-proxy, interval: 30s}":
            "{kind: memory_leak, service: llm-proxy, interval: 200ms, window: 60s, min_window: 5s}",
    },
}  # fmt: skip
"""Rules, playbook and probe that look at half an hour, on a scale of seconds."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareHost]:
    """Installed as a person would, and well."""
    reason = unfit()
    booted = None
    if reason is None:
        try:
            booted = BootedSystem(tmp_path_factory.mktemp("faults") / "lab", bare=True)
        except BootError as error:
            reason = f"no container can be booted here: {error}"
    if booted is None:
        if os.environ.get("CI") == "true":
            pytest.fail(str(reason))
        pytest.skip(str(reason))
    try:
        host = BareHost(booted)
        host.proxywatch("install")
        yield host
    finally:
        booted.close()


def workers(host: BareHost) -> dict[str, int]:
    """Pids of those that serve."""
    (service,) = host.installed("status")["services"]
    return {worker["worker"]: worker["pid"] for worker in service["workers"] if worker["state"] == "serving"}


def healed(host: BareHost, target: str, since: str, *about: str) -> list[dict[str, Any]]:
    """Waits for the end of an incident of this target; its story as `journalctl INCIDENT_ID=…` tells it."""
    told = (OF_AGENT, f"TARGET={target}", f"MESSAGE_ID={RESOLVED}", *about)
    ended = host.booted.await_journal(*told, seconds=90, since=since)
    assert "healed" in ended["MESSAGE"]
    return host.booted.journal(f"INCIDENT_ID={ended['INCIDENT_ID']}")


def told_by(story: list[dict[str, Any]], *events: str) -> list[str]:
    return [entry["MESSAGE"] for entry in story if entry["EVENT"] in events]


def acts(host: BareHost, since: str) -> list[str]:
    """What the agent meant to do since then."""
    return [entry["MESSAGE"] for entry in host.booted.journal(OF_AGENT, "EVENT=intent", since=since)]


def all_serve(host: BareHost) -> dict[str, int]:
    found: dict[str, int] = host.await_("both workers serve", lambda: (w := workers(host)) and len(w) == 2 and w)
    return found


@contextlib.contextmanager
def hastened(host: BareHost) -> Iterator[None]:
    """The agent judges leaks within seconds."""
    before = {path: host.at(path).read_text() for path in QUICK}
    for path, changes in QUICK.items():
        text = before[path]
        for old, new in changes.items():
            assert old in text, (path, old)
            text = text.replace(old, new)
        host.at(path).write_text(text)
    try:
        host.booted.run("systemctl", "reload", AGENT)
        yield
    finally:
        for path, text in before.items():
            host.at(path).write_text(text)
        host.booted.run("systemctl", "reload", AGENT)


@contextlib.contextmanager
def leaky_release(host: BareHost, place: Path) -> Iterator[None]:
    """The installed proxy is one in which a worker can be told to leak: a reload takes the code that is on the disk."""
    build(place / "build")
    home = host.booted.run("sh", "-c", "echo $(readlink -f /opt/proxywatch/current)/lib/python*/site-packages").stdout
    package = host.at(f"{home.strip()}/proxy")
    leak(host, {})
    shutil.copytree(package, place / "good")
    shutil.copytree(place / "build" / "proxy", package, dirs_exist_ok=True)
    try:
        host.booted.run("systemctl", "reload", PROXY)
        yield
    finally:
        shutil.copytree(place / "good", package, dirs_exist_ok=True)
        host.booted.run("systemctl", "reload", PROXY)


def leak(host: BareHost, cases: Mapping[str, str]) -> None:
    """These workers leak so from now on, the others do not."""
    host.booted.write(f"{CASES}.new", json.dumps({"cases": cases, "provider": 0}))
    host.booted.run("mv", f"{CASES}.new", CASES)


@contextlib.contextmanager
def traffic(host: BareHost) -> Iterator[dict[str, int]]:
    """Callers come all the time; afterwards, how often which answer was given."""
    seen: dict[str, int] = {}
    host.booted.write("/opt/lab_knock.py", Path(__file__).with_name("lab_knock.py").read_text())
    argv = host.booted.command("/usr/bin/env", "python3", "/opt/lab_knock.py", f"{URL}/v1/models")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as knocking:
        try:
            yield seen
            seen.update(json.loads(knocking.communicate("", timeout=60)[0]))
        finally:
            knocking.kill()


def test_a_leak_is_named_and_its_worker_replaced(host: BareHost, tmp_path: Path) -> None:
    """Under its units, as another user, the agent finds the line that leaks in the live worker, says it in the incident
    and has the worker replaced; no caller sees anything of it, and the other worker goes on."""
    with hastened(host), leaky_release(host, tmp_path):
        before, since = all_serve(host), host.booted.cursor()
        with traffic(host) as seen:
            leak(host, {"1": "unbounded_cache"})
            found = host.booted.await_journal(*(OF_AGENT, f"TARGET={LEAKS}", "EVENT=finding"), seconds=150, since=since)
            leak(host, {})
            story = healed(host, LEAKS, since, f"INCIDENT_ID={found['INCIDENT_ID']}")
        after = all_serve(host)
    assert f"planted.py:{line('unbounded_cache')} keeps" in found["MESSAGE"]
    collected, named, replaced = told_by(story, "done")
    assert "collected" in collected
    assert f"planted.py:{line('unbounded_cache')} keeps" in named
    assert f"worker 1: pid {before['1']} replaced by {after['1']}" in replaced
    assert after["0"] == before["0"]
    assert set(seen) == {"200"}


def test_a_worker_that_hangs_is_replaced(host: BareHost) -> None:
    """A stopped worker is noticed and replaced; the story begins with what is wrong and ends with the proof."""
    before, since = all_serve(host), host.booted.cursor()
    host.booted.run("kill", "-STOP", str(before["0"]))
    story = healed(host, WORKER, since)
    assert story[0]["EVENT"] == "opened"
    assert told_by(story, "intent", "done")
    assert all_serve(host)["0"] != before["0"]
    assert host.chat()


def test_a_worker_that_is_killed_is_replaced_by_its_master(host: BareHost) -> None:
    """The master is quicker than anybody else; the agent sees it and does nothing."""
    before, since = all_serve(host), host.booted.cursor()
    host.booted.run("kill", "-KILL", str(before["0"]))
    host.await_("another pid serves", lambda: workers(host).get("0", before["0"]) != before["0"])
    assert told_by(healed(host, WORKER, since), "intent") == []
    assert host.chat()


def test_a_service_that_is_killed_is_left_to_systemd(host: BareHost) -> None:
    """systemd restarts it within a second; the agent does not start it too, and the journal's restart is counted."""
    since, before = host.booted.cursor(), host.booted.properties(PROXY, "MainPID", "NRestarts")
    host.booted.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", PROXY)
    host.booted.await_journal(f"UNIT={PROXY}", "JOB_TYPE=start", "JOB_RESULT=done", seconds=60, since=since)
    after = host.booted.properties(PROXY, "MainPID", "NRestarts")
    assert (after["NRestarts"], after["MainPID"] != before["MainPID"]) == (str(int(before["NRestarts"]) + 1), True)
    all_serve(host)
    assert acts(host, since) == []
    assert host.chat()


def test_what_a_person_stopped_is_left_alone_and_said(host: BareHost) -> None:
    """After `systemctl stop` the status says that it is stopped, nobody starts it, and no incident is opened."""
    since = host.booted.cursor()
    host.booted.run("systemctl", "stop", PROXY)
    host.await_("it is seen as stopped", lambda: host.installed("status")["services"][0]["state"] == "stopped")
    host.booted.run("sleep", "5")  # long enough for every rule that could still take it for a fault
    assert host.booted.properties(PROXY, "ActiveState")["ActiveState"] == "inactive"
    assert host.booted.journal(OF_AGENT, f"MESSAGE_ID={OPENED}", since=since) == []
    assert "was stopped by a person" in json.dumps(host.installed("explain", SERVICE))


def test_a_unit_that_is_masked_is_explained(host: BareHost) -> None:
    """The status says what keeps it from being started and which command ends that; then it serves again."""
    host.booted.run("systemctl", "stop", PROXY)
    host.booted.run("systemctl", "mask", PROXY)
    try:
        told = host.await_("it is explained", lambda: _unmask(host))
        assert f"systemctl unmask {PROXY}" in told
    finally:
        host.booted.run("systemctl", "unmask", PROXY)
    host.booted.run("systemctl", "start", PROXY)
    all_serve(host)
    assert host.chat()


def _unmask(host: BareHost) -> str:
    service = host.installed("status")["services"][0]
    return service["note"] if "unmask" in service["note"] else ""
