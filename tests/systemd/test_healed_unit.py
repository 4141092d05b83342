"""The agent heals a unit beside systemd, over D-Bus and by polkit's leave: what is its own to repair, and what not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from installed_lab import AGENT, PROXY, Lab

TARGET = "service:llm-proxy"
REPAIRS = ((TARGET, "restore-service"), ("worker:llm-proxy", "restore-worker"))


@pytest.fixture(scope="module")
def watching(installed: Lab) -> Iterator[Lab]:
    """The proxy serves and the agent watches it."""
    installed.settle()
    installed.serve()
    installed.run("systemctl", "start", AGENT)
    yield installed
    installed.run("systemctl", "stop", AGENT)


def incidents(lab: Lab, target: str = TARGET) -> list[dict[str, Any]]:
    found = lab.agent_says("incident", "list", "--all")["incidents"]
    return [incident for incident in found if incident["target"] == target]


def healed(lab: Lab) -> dict[str, Any] | None:
    """The incident whose run brought it back, when nothing is left open."""
    found: list[dict[str, Any]] = lab.agent_says("incident", "list", "--all")["incidents"]
    if any(incident["state"] != "resolved" for incident in found):
        return None
    wholes = (lab.agent_says("incident", "show", str(incident["id"])) for incident in found if incident["healed"])
    return next((whole for whole in wholes if any(run["effects"] for run in whole["runs"])), None)


def stopped(lab: Lab) -> bool:
    return bool(lab.agent_says("query", 'proxywatch_service_stopped{service="llm-proxy"} == 1')["result"])


def test_a_unit_that_systemd_has_given_up_is_started_again(watching: Lab) -> None:
    """Without an automatic restart a killed service is failed for good; the agent, another user than root, starts it
    over the bus, proves it, and the journal has the whole story under the incident's number."""
    with watching.drop_in(PROXY, "[Service]\nRestart=no\n"):
        watching.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", PROXY)
        # The service and its workers go down together; whichever is repaired first brings the others back.
        incident = watching.await_("it is over and healed", lambda: healed(watching), 60)
    assert watching.booted.properties(PROXY, "ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
    story = watching.booted.journal(f"INCIDENT_ID={incident['id']}")
    events = [entry["EVENT"] for entry in story]
    assert events[0] == "opened"
    assert events[-1] == "resolved"
    assert {"run", "evidence", "intent", "done"} <= set(events)
    (intent,) = [entry for entry in story if entry["EVENT"] == "intent"]
    assert (intent["TARGET"].partition("/")[0], intent["PLAYBOOK"]) in REPAIRS
    (done,) = [entry for entry in story if entry["EVENT"] == "done"]
    assert (done["RESULT"], done["STEP"]) == ("done", intent["STEP"])
    assert len(done["MESSAGE_ID"]) == 32
    catalogue = watching.run("journalctl", "-x", "-n", "1", "--output=short", f"MESSAGE_ID={done['MESSAGE_ID']}").stdout
    assert f"Subject: Incident {incident['id']}: a step was done" in catalogue


def test_what_systemd_starts_again_by_itself_is_left_to_it(watching: Lab) -> None:
    """While a unit waits for its automatic restart nobody else starts it: one restart, by systemd, and no incident."""
    before = len(incidents(watching))
    with watching.drop_in(PROXY, "[Service]\nRestart=on-failure\nRestartSec=3\n"):
        since = watching.booted.cursor()
        watching.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", PROXY)
        watching.await_("the guards know", lambda: "systemd itself starts" in str(explain(watching)), 10)
        watching.booted.await_journal(f"UNIT={PROXY}", "JOB_TYPE=start", "JOB_RESULT=done", seconds=30, since=since)
        watching.await_("two workers serve", lambda: len(watching.workers()) == 2, 30)
    assert watching.booted.properties(PROXY, "NRestarts")["NRestarts"] == "1"
    assert len(incidents(watching)) == before


def test_what_a_person_stopped_stays_stopped(watching: Lab) -> None:
    """After `systemctl stop` nothing is wrong: no incident, no start, and `explain` says whose it is to start."""
    before = len(incidents(watching))
    watching.run("systemctl", "stop", PROXY)
    watching.await_("it is seen as stopped on purpose", lambda: stopped(watching), 20)
    # Long enough for every rule that could still take it for a fault.
    watching.run("sleep", "6")
    assert len(incidents(watching)) == before
    assert watching.booted.properties(PROXY, "ActiveState")["ActiveState"] == "inactive"
    assert "was stopped by a person" in str(explain(watching))
    watching.serve()
    watching.await_("it is seen to run again", lambda: not stopped(watching), 20)


def test_a_masked_unit_is_explained(watching: Lab) -> None:
    """A masked unit is left alone, and the status says what would have to be done."""
    file = watching.booted.root / f"etc/systemd/system/{PROXY}"
    text = file.read_text()
    watching.run("systemctl", "stop", PROXY)
    file.unlink()
    watching.run("systemctl", "mask", PROXY)
    try:
        watching.await_("it is seen as stopped on purpose", lambda: stopped(watching), 20)
        told = watching.agent_says("status")["services"][0]
        assert told["state"] == "stopped"
        assert f"systemctl unmask {PROXY}" in told["note"]
    finally:
        watching.run("systemctl", "unmask", PROXY)
        file.write_text(text)
        watching.run("systemctl", "daemon-reload")
    watching.serve()


def explain(lab: Lab) -> dict[str, Any]:
    told: dict[str, Any] = lab.agent_says("explain", TARGET)
    return told
