"""What `proxywatch install` put onto a host heals by itself, and what it leaves to others, in one container."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from bare_host import BareHost
from booted_system import BootedSystem, BootError, unfit

from watchdog.journal.message_ids import MESSAGE_IDS

PROXY, AGENT = "llm-proxy.service", "proxywatch.service"
RESOLVED, OPENED = MESSAGE_IDS["resolved"], MESSAGE_IDS["opened"]
SERVICE, WORKER = "service:llm-proxy", "worker:llm-proxy/0"
OF_AGENT = f"_SYSTEMD_UNIT={AGENT}"


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


def healed(host: BareHost, target: str, since: str) -> list[dict[str, Any]]:
    """Waits for the end of an incident of this target; its story as `journalctl INCIDENT_ID=…` tells it."""
    told = (OF_AGENT, f"TARGET={target}", f"MESSAGE_ID={RESOLVED}")
    ended = host.booted.await_journal(*told, seconds=90, since=since)
    assert "healed" in ended["MESSAGE"]
    return host.booted.journal(f"INCIDENT_ID={ended['INCIDENT_ID']}")


def told_by(story: list[dict[str, Any]], *events: str) -> list[str]:
    return [entry["MESSAGE"] for entry in story if entry["EVENT"] in events]


def all_serve(host: BareHost) -> dict[str, int]:
    found: dict[str, int] = host.await_("both workers serve", lambda: (w := workers(host)) and len(w) == 2 and w)
    return found


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
    assert host.booted.journal(OF_AGENT, "EVENT=intent", since=since) == []
    assert host.chat()


def test_a_service_that_is_killed_is_left_to_systemd(host: BareHost) -> None:
    """systemd restarts it within a second; the agent does not start it too, and the journal's restart is counted."""
    since, before = host.booted.cursor(), host.booted.properties(PROXY, "MainPID", "NRestarts")
    host.booted.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", PROXY)
    host.booted.await_journal(f"UNIT={PROXY}", "JOB_TYPE=start", "JOB_RESULT=done", seconds=60, since=since)
    after = host.booted.properties(PROXY, "MainPID", "NRestarts")
    assert (after["NRestarts"], after["MainPID"] != before["MainPID"]) == (str(int(before["NRestarts"]) + 1), True)
    all_serve(host)
    assert host.booted.journal(OF_AGENT, "EVENT=intent", since=since) == []
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
