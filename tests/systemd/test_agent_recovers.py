"""The agent under its unit when its own life goes wrong: frozen in a repair, a broken configuration, a long stop."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from installed_lab import AGENT, AGENT_CONFIGURATION, Lab

STATE, PLACE = "/var/lib/proxywatch", "/etc/proxywatch"
SEEN = {"unwell": {"kind": "file", "path": f"{STATE}/unwell", "interval": "500ms", "wanted": None}}
QUICK = {"boot_grace": "0s", "backoff_initial": "1s"}
RULES = """
groups:
  - name: frozen
    interval: 1s
    rules:
      - alert: Frozen
        expr: file_exists{job="unwell"} == 1
        labels: {severity: critical, target: "host"}
        annotations: {summary: It is unwell, description: Until somebody makes it well again.}
"""


def step(script: str, word: str) -> dict[str, Any]:
    """A command that can be recognised afterwards."""
    check = ["/usr/bin/grep", "-q", word, f"{STATE}/effects"]
    return {"kind": "command", "argv": ["/usr/bin/sh", "-c", script], "check": check, "timeout": "2m"}


FIRST = step(f"echo once >> {STATE}/effects", "once")
SECOND = step(
    f"echo begun >> {STATE}/begun; until [ -e {STATE}/go ]; do sleep 0.2; done;"
    f" echo twice >> {STATE}/effects; rm -f {STATE}/unwell",
    "twice",
)


def playbook(*steps: dict[str, Any]) -> str:
    verify = {"hold": "1s", "within": "30s"}
    ladder = [{"rung": "only", "steps": list(steps), "verify": verify}]
    return yaml.safe_dump(
        {"name": "thaw", "answers": ['alertname="Frozen"'], "targets": ["host"], "ladder": ladder}, sort_keys=False
    )


@contextmanager
def watching(lab: Lab, *steps: dict[str, Any], more: str = "") -> Iterator[None]:
    """The agent watches one file, and answers its being there by these steps."""
    configuration = {**AGENT_CONFIGURATION, "services": {}, "probes": SEEN, "guards": QUICK}
    lab.booted.write(f"{PLACE}/rules/frozen.yaml", RULES)
    lab.booted.write(f"{PLACE}/playbooks/thaw.yaml", playbook(*steps))
    try:
        with (
            lab.changed(f"{PLACE}/proxywatch.yaml", yaml.safe_dump(configuration)),
            lab.drop_in(AGENT, f"[Service]\n{more}\n"),
        ):
            lab.run("systemctl", "start", AGENT)
            yield
            lab.run("systemctl", "stop", AGENT)
    finally:
        for left in ("rules/frozen.yaml", "playbooks/thaw.yaml"):
            (lab.booted.root / f"{PLACE}/{left}".lstrip("/")).unlink()
        lab.run("sh", "-c", f"rm -f {STATE}/begun {STATE}/go {STATE}/effects {STATE}/unwell")


def lines(lab: Lab, name: str) -> list[str]:
    file = lab.booted.root / f"{STATE}/{name}".lstrip("/")
    return file.read_text().split() if file.exists() else []


def incident(lab: Lab) -> dict[str, Any]:
    """The newest of this kind, whole."""
    found = [i for i in lab.agent_says("incident", "list", "--all")["incidents"] if "Frozen" in i["alertnames"]]
    whole: dict[str, Any] = lab.agent_says("incident", "show", str(max(i["id"] for i in found)))
    return whole


def test_an_agent_frozen_in_a_repair_is_replaced_and_the_repair_reconciled(lab: Lab) -> None:
    """Stopped between intent and result it is ended by systemd's watchdog; its half-done command dies with it, the next
    agent looks, does it once, verifies, and `journalctl INCIDENT_ID=…` tells all of that in order."""
    with watching(lab, FIRST, SECOND, more="WatchdogSec=10"):
        since = lab.booted.cursor()
        lab.run("touch", f"{STATE}/unwell")
        lab.await_("the second step is under way", lambda: lines(lab, "begun") == ["begun"], 60)
        lab.run("kill", "-STOP", lab.booted.properties(AGENT, "MainPID")["MainPID"])
        lab.booted.await_journal(f"UNIT={AGENT}", "UNIT_RESULT=watchdog", seconds=60, since=since)
        lab.await_("the next agent does it", lambda: lines(lab, "begun") == ["begun"] * 2, 60)
        lab.run("touch", f"{STATE}/go")
        lab.await_("it is over", lambda: incident(lab)["state"] == "resolved", 60)
        assert lines(lab, "effects") == ["once", "twice"]
        whole = incident(lab)
        (run,) = whole["runs"]
        assert [effect["outcome"] for effect in run["effects"]] == ["done", "not_done", "done"]
        story = [entry["EVENT"] for entry in lab.booted.journal(f"INCIDENT_ID={whole['id']}")]
        told = [event for event in story if event in {"opened", "intent", "done", "reconciled", "resumed", "resolved"}]
        assert told == ["opened", "intent", "done", "intent", "reconciled", "resumed", "intent", "done", "resolved"]
        lab.await_("nothing is held any more", lambda: not lab.agent_says("status")["incidents"], 30)


def test_a_configuration_broken_since_does_not_keep_the_agent_from_starting(lab: Lab) -> None:
    """It starts with what it accepted last; `systemctl status`, the journal, `proxywatch status` and an incident say
    so, with the line that is wrong; one start is enough, and a reload takes the corrected file over."""
    with watching(lab, FIRST):
        kept = lab.booted.root / f"{STATE}/accepted/last.json".lstrip("/")
        lab.await_("it is kept", kept.exists, 30)
        lab.run("systemctl", "stop", AGENT)
        good = (lab.booted.root / f"{PLACE}/proxywatch.yaml".lstrip("/")).read_text()
        lab.booted.write(f"{PLACE}/proxywatch.yaml", good + "guard: {}\n")
        since = lab.booted.cursor()
        lab.run("systemctl", "start", AGENT)
        shown = lab.booted.properties(AGENT, "StatusText", "NRestarts")
        assert shown["NRestarts"] == "0"
        assert "configuration refused, the last good one is in force" in shown["StatusText"]
        assert "guard: unknown key" in shown["StatusText"]
        entries = lab.booted.journal(f"_SYSTEMD_UNIT={AGENT}", since=since)
        told = [entry["MESSAGE"] for entry in entries if entry["PRIORITY"] == "2"]
        assert any("the configuration is refused, the last good one is in force" in line for line in told)
        own = "OwnConfigurationNotInForce"
        lab.await_("an incident", lambda: own in json.dumps(lab.agent_says("status")["incidents"]), 60)
        lab.booted.write(f"{PLACE}/proxywatch.yaml", good)
        lab.run("systemctl", "reload", AGENT)
        lab.await_("it is over", lambda: own not in json.dumps(lab.agent_says("status")["incidents"]), 60)


def test_a_stop_waits_for_the_step_that_is_being_done(lab: Lab) -> None:
    """A unit that allows ten seconds for its stop: systemd waits longer, because it is asked; the step is finished and
    recorded, and the next life goes on behind it."""
    with watching(lab, SECOND, more="TimeoutStopSec=10"):
        lab.run("touch", f"{STATE}/unwell")
        lab.await_("the step is under way", lambda: lines(lab, "begun") == ["begun"], 60)
        with subprocess.Popen(lab.booted.command("systemctl", "stop", AGENT)) as stopping:
            lab.run("sleep", "12")  # longer than TimeoutStopSec=
            assert stopping.poll() is None
            lab.run("touch", f"{STATE}/go")
            assert stopping.wait(60) == 0
        assert lab.booted.properties(AGENT, "Result")["Result"] == "success"
        assert lines(lab, "effects") == ["twice"]
        lab.run("systemctl", "start", AGENT)
        lab.await_("it is over", lambda: incident(lab)["state"] == "resolved", 60)
        assert [effect["outcome"] for effect in incident(lab)["runs"][0]["effects"]] == ["done"]
        assert lines(lab, "begun") == ["begun"]
