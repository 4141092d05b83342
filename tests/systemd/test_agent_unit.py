"""proxywatch under its unit: what it may see and do as another user than the proxy, its own death, its own failure."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from booted_system import lines_within
from installed_lab import AGENT, PROXY, Lab

MEASURED = {
    "processes of another user": "proxywatch_process_resident_bytes > 0",
    "every worker over its group's socket": "count(proxywatch_worker_responsive == 1) == 2",
    "the memory of every worker": "count(proxywatch_worker_uss_bytes > 0) == 2",
    "the machine, outside of processes": "node_memory_MemAvailable_bytes > 0",
    "pressure, by a trigger in the kernel": "pressure_trigger_armed == 1",
    "the journal, as it is written": "journal_following == 1",
    "units, over the bus": f'systemd_unit_state{{unit="{PROXY}",state="active"}} == 1',
}


@pytest.fixture(scope="module")
def watching(installed: Lab) -> Iterator[Lab]:
    """The proxy serves and the agent watches it; systemd loses patience with it sooner than usual."""
    installed.settle()
    installed.serve()
    with installed.drop_in(AGENT, "[Service]\nWatchdogSec=5\n"):
        installed.run("systemctl", "start", AGENT)
        yield installed
        installed.run("systemctl", "stop", AGENT)


@contextmanager
def sunk(argv: Sequence[str]) -> Iterator[Iterator[bytes]]:
    """The lines that a command says, for two minutes at most; it ends with the block."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as sink:
        assert sink.stdout is not None
        try:
            yield lines_within(sink.stdout.fileno(), 120)
        finally:
            sink.kill()


@pytest.mark.parametrize("what", MEASURED)
def test_hardening_hides_nothing_that_it_must_measure(watching: Lab, what: str) -> None:
    """Under its unit the agent has figures of what belongs to other users and to the kernel."""
    watching.await_(what, lambda: watching.agent_says("query", MEASURED[what])["result"], 20)


def test_the_status_is_worth_reading(watching: Lab) -> None:
    """`systemctl status` shows the agent's own headline from the moment it is ready."""
    assert "1 services, 7 probes" in watching.booted.properties(AGENT, "StatusText")["StatusText"]


def test_a_hung_worker_of_another_user_is_replaced(watching: Lab) -> None:
    """A worker that is stopped is noticed, replaced over the master's socket, and the incident has the proxy's log."""
    hung = watching.workers()[0]
    watching.run("kill", "-STOP", str(hung))
    watching.await_("another pid serves", lambda: watching.workers().get(0, hung) != hung, 30)
    story = watching.run("journalctl", "--output=cat", f"--unit={AGENT}", "--grep=evidence: service_log").stdout
    assert "could not be taken" not in story


def test_an_agent_that_hangs_is_replaced_by_systemds_watchdog(watching: Lab) -> None:
    """A stopped agent gives no signs of life; systemd ends it for that and starts another, which takes over."""
    since, before = watching.booted.cursor(), watching.booted.properties(AGENT, "MainPID")
    watching.run("kill", "-STOP", before["MainPID"])
    watching.booted.await_journal(f"UNIT={AGENT}", "UNIT_RESULT=watchdog", seconds=30, since=since)
    watching.booted.await_journal(f"UNIT={AGENT}", "JOB_TYPE=start", "JOB_RESULT=done", seconds=30, since=since)
    assert watching.agent_says("status")["ready"] is True
    assert watching.booted.properties(AGENT, "MainPID") != before


def test_an_agent_that_cannot_start_calls_a_person_and_is_left_alone(lab: Lab) -> None:
    """With a broken configuration and none from before, starts are finite, and then a webhook of the routes says why;
    the secret that the webhook is signed with is the credential that the agent itself is handed."""
    routes = """
route: {receiver: on-call}
receivers:
  - name: on-call
    webhook_configs:
      - url: http://127.0.0.1:9999/
        x_hmac_secret_file: /run/credentials/proxywatch.service/secret_llm-proxy.key
"""
    lab.run("rm", "-rf", "/var/lib/proxywatch/accepted")
    with (
        sunk(lab.python("lab_sink.py", "9999")) as lines,
        lab.changed("/etc/proxywatch/proxywatch.yaml", "probes: {host: {kind: sistem}}\n"),
        lab.changed("/etc/proxywatch/routes.yaml", routes),
        lab.drop_in(AGENT, "[Unit]\nStartLimitBurst=1\n[Service]\nRestartSec=100ms\n"),
    ):
        assert next(lines) == b"listening"
        lab.run("systemctl", "start", "--no-block", AGENT)
        told: dict[str, Any] = json.loads(next(lines))["alerts"][0]
    assert told["labels"]["unit"] == AGENT
    assert told["annotations"]["summary"].startswith(f"{AGENT} has failed for good: exit-code, exit status 2")
    shown = lab.booted.properties(AGENT, "ActiveState", "NRestarts")
    assert shown == {"ActiveState": "failed", "NRestarts": "1"}
