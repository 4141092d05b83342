"""The machine is booted again in the middle of a repair."""

from __future__ import annotations

from typing import Any

import yaml
from installed_lab import AGENT, AGENT_CONFIGURATION, Lab

RULES = """
groups:
  - name: reboot
    interval: 1s
    rules:
      - alert: Unwell
        expr: file_exists == 1
        labels: {severity: critical, target: "%s"}
        annotations: {summary: It is unwell, description: Until somebody makes it well again.}
"""
TARGET = "filesystem:/reboot"
"""Of its own: what other tests had done to one would be waited for."""
STATE = "/var/lib/proxywatch"


def step(script: str, word: str) -> dict[str, Any]:
    """A command that can be recognised afterwards."""
    check = ["/usr/bin/grep", "-q", word, f"{STATE}/effects"]
    return {"kind": "command", "argv": ["/usr/bin/sh", "-c", script], "check": check, "timeout": "2m"}


FIRST = f"echo once >> {STATE}/effects"
SECOND = f"touch {STATE}/begun; test -e {STATE}/go || sleep 600; echo twice >> {STATE}/effects; rm {STATE}/unwell"
PLAYBOOK: dict[str, Any] = {
    "name": "make-well",
    "answers": ['alertname="Unwell"'],
    "targets": ["filesystem"],
    "ladder": [
        {
            "rung": "first",
            "steps": [step(FIRST, "once"), step(SECOND, "twice")],
            "verify": {"hold": "1s", "within": "30s"},
        }
    ],
}


def test_a_reboot_in_the_middle_of_a_repair_loses_nothing(lab: Lab) -> None:
    """The machine is booted again between two steps: afterwards the first is known to be done and not done again, the
    second is done once, the incident is over, and the silence and what the guards count are what they were."""
    watch = {
        **AGENT_CONFIGURATION,
        "guards": {"boot_grace": "0s", "backoff_initial": "1s", "host_budget": {"1h": 60}},
        "probes": {"unwell": {"kind": "file", "path": f"{STATE}/unwell", "interval": "500ms", "wanted": None}},
    }
    place = "/etc/proxywatch"
    lab.booted.write(f"{place}/rules/reboot.yaml", RULES % TARGET)
    lab.booted.write(f"{place}/playbooks/make-well.yaml", yaml.safe_dump(PLAYBOOK))
    with lab.changed(f"{place}/proxywatch.yaml", yaml.safe_dump(watch)):
        lab.run("systemctl", "enable", "--now", AGENT)
        silence = lab.agent_says("silence", "add", 'alertname="SomethingElse"', "--for", "2h", "--comment", "kept")
        lab.run("touch", f"{STATE}/unwell")
        lab.await_("the second step is under way", (lab.booted.root / f"{STATE}/begun".lstrip("/")).exists, 90)
        lab.run("touch", "/var/lib/proxywatch/go")
        lab.booted.reboot()
        lab.await_("the agent is back", lambda: lab.agent_says("status")["ready"], 120)
        try:
            lab.await_("the incident is over", lambda: incident(lab)["state"] == "resolved", 120)
        except AssertionError as error:
            story = lab.run("journalctl", "--output=cat", f"--unit={AGENT}", "--lines=40").stdout
            raise AssertionError(f"{error}\n{story}") from None
        assert (lab.booted.root / f"{STATE}/effects".lstrip("/")).read_text().split() == ["once", "twice"]
        assert effects(lab) == ["done", "not_done", "done"]
        (kept,) = lab.agent_says("silence", "list")["silences"]
        assert (kept["id"], kept["matchers"]) == (silence["id"], silence["matchers"])
        assert lab.agent_says("explain", TARGET)["subjects"][0]["backoff"]["effects"] == 2
        lab.run("systemctl", "disable", "--now", AGENT)


def incident(lab: Lab) -> dict[str, Any]:
    (found,) = [i for i in lab.agent_says("incident", "list", "--all")["incidents"] if "Unwell" in i["alertnames"]]
    whole: dict[str, Any] = lab.agent_says("incident", "show", str(found["id"]))
    return whole


def effects(lab: Lab) -> list[str | None]:
    return [effect["outcome"] for run in incident(lab)["runs"] for effect in run["effects"]]
