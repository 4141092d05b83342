"""What the agent's user may do under its unit: what it needs for its repairs, and nothing that root relies on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import yaml
from booted_system import HOME, REPOSITORY
from installed_lab import AGENT, AGENT_CONFIGURATION, PROXY, Lab

CONFIGURATION = "/etc/proxywatch/proxywatch.yaml"
PROXY_FILE = "/etc/llm-proxy/llm-proxy.yaml"
LEDGER = "/var/lib/llm-proxy/ledger.sqlite"
LOGS, STATE = "/var/log/llm-proxy", "/var/lib/llm-proxy"
SERVICE = "service:llm-proxy"
RECOVERY: dict[str, Any] = {
    "files": [PROXY_FILE],
    "databases": [LEDGER],
    "check": [f"{HOME}/bin/llm-proxy", "config", "check", "--without-secrets", "{file}"],
    "minimal": {"file": PROXY_FILE, "overlay": {"workers": 1}},
    "temporary": [{"directory": STATE, "patterns": ["*.tmp"]}],
    "cache": [{"directory": f"{STATE}/shared", "patterns": ["*.mdb"]}],
}
BEYOND: dict[str, dict[str, Any]] = {
    "vacuum": {"kind": "vacuum_journal", "keep_size": "8MiB"},
    "block": {"kind": "block_source", "address": "203.0.113.9"},
    "elsewhere": {"kind": "remove_files", "directories": ["/srv/elsewhere"], "patterns": ["*.tmp"], "min_age": "1s"},
}
LACKING = {
    "vacuum": "missing privilege CAP_DAC_OVERRIDE with ReadWritePaths=/run/log/journal",
    "block": "missing privilege CAP_NET_ADMIN with RestrictAddressFamilies=AF_NETLINK",
    "elsewhere": "missing privilege ReadWritePaths= of its directory",
}
READ_BY_ROOT = ("/etc", "/opt", "/root", "/run/systemd", "/usr", "/var/lib/polkit-1", "/var/lib/systemd", "/var/spool")


def steps_of(playbook: str, *kinds: str) -> list[dict[str, Any]]:
    """Those of a shipped playbook, with the places of a host."""
    ladder = yaml.safe_load((REPOSITORY / f"config/playbooks/{playbook}.yaml").read_text())["ladder"]
    steps = [step for rung in ladder for step in rung["steps"] if step["kind"] in kinds]
    return [step | {"directories": [f"/{place}" for place in step["directories"]]} for step in steps]


def by_hand(name: str, steps: list[dict[str, Any]]) -> str:
    """A playbook that a person begins, for there is no alert of its name."""
    rung = {"rung": "only", "steps": steps, "verify": {"hold": "0s", "within": "10s"}}
    return yaml.safe_dump({"name": name, "answers": ['alertname="Never"'], "targets": ["host"], "ladder": [rung]})


@pytest.fixture(scope="module")
def watching(installed: Lab) -> Iterator[Lab]:
    """The agent watches a proxy that it can put back, with the playbooks of these tests alone."""
    installed.settle()
    installed.run("systemctl", "stop", PROXY)
    mine = "/etc/proxywatch/rights"
    last = yaml.safe_load((REPOSITORY / "config/playbooks/emergency-recovery.yaml").read_text())
    last["ladder"][0]["steps"][-1] |= {"interval": "100ms"}
    installed.booted.write(f"{mine}/last.yaml", yaml.safe_dump(last))
    tidy = steps_of("free-disk", "remove_files", "rotate_logs")
    installed.booted.write(f"{mine}/tidy.yaml", by_hand("tidy", tidy))
    for name, step in BEYOND.items():
        installed.booted.write(f"{mine}/{name}.yaml", by_hand(name, [step]))
    configuration = deepcopy(AGENT_CONFIGURATION) | {"playbooks": ["rights/*.yaml"], "backups": {"look_every": "1s"}}
    configuration["services"]["llm-proxy"]["recovery"] = RECOVERY
    good = (installed.booted.root / PROXY_FILE.lstrip("/")).read_text()
    with installed.changed(CONFIGURATION, yaml.safe_dump(configuration)), installed.changed(PROXY_FILE, good):
        installed.serve()
        installed.run("systemctl", "start", AGENT)
        yield installed
        installed.run("systemctl", "stop", AGENT, PROXY)


def begun(lab: Lab, playbook: str, target: str = "host") -> dict[str, Any]:
    """A playbook's whole run, begun by a person."""
    ask = (f"{HOME}/bin/proxywatch", "--config", CONFIGURATION, "--json", "playbook", "run", playbook, target, "--wait")
    run: dict[str, Any] = json.loads(lab.run(*ask, check=False).stdout)
    return run


def files(lab: Lab, directory: str) -> set[str]:
    return {path.name for path in (lab.booted.root / directory.lstrip("/")).iterdir()}


def test_it_makes_room_among_what_is_the_proxys(watching: Lab) -> None:
    """The rungs of free-disk remove what is old by the lists that they come with, keep the newest, and compress, all of
    it the proxy's own."""
    old = [f"{LOGS}/llm_proxy.log.{number}.gz" for number in range(7)]
    waste = [f"{LOGS}/a.tmp", f"{STATE}/b.tmp"]
    rotated = f"{LOGS}/security.log.1"
    watching.run("sh", "-c", f"echo once >> {rotated}")
    for number, path in enumerate([*old, *waste, rotated]):
        watching.run("touch", "--date", f"{30 - number} days ago", path)
        watching.run("chown", "llm-proxy:llm-proxy", path)
    run = begun(watching, "tidy")
    assert run["state"] == "verified", run
    assert {path.rpartition("/")[2] for path in old} & files(watching, LOGS) == {
        path.rpartition("/")[2] for path in old[2:]
    }
    assert not {"a.tmp", "security.log.1"} & files(watching, LOGS)
    assert "security.log.1.gz" in files(watching, LOGS)
    assert "b.tmp" not in files(watching, STATE)


@pytest.mark.parametrize("what", LACKING)
def test_what_it_may_not_do_is_said_with_what_grants_it(watching: Lab, what: str) -> None:
    """The journal's files, the firewall and directories of others: the run names the privilege and where it is told."""
    watching.run("sh", "-c", "mkdir -p /srv/elsewhere && touch --date=yesterday /srv/elsewhere/a.tmp")
    run = begun(watching, what)
    assert run["state"] == "exhausted"
    note = run["attempts"][0]["note"]
    assert LACKING[what] in note
    assert "docs/systemd.md has for it under «Hardening»" in note


def granted(what: str) -> str:
    """The drop-in of docs/systemd.md for something."""
    found = re.search(rf"(?ms)^```ini\n# {what}[^\n]*\n(.*?)^```", (REPOSITORY / "docs/systemd.md").read_text())
    assert found, what
    return found[1]


def test_the_documented_drop_ins_grant_it(watching: Lab) -> None:
    """With the lines of docs/systemd.md the journal is vacuumed, an address is dropped, and a directory is cleared."""
    watching.run("sh", "-c", "mkdir -p /srv/elsewhere && touch --date=yesterday /srv/elsewhere/a.tmp")
    watching.run("sh", "-c", "for _ in 1 2 3 4 5 6; do logger x; journalctl --rotate; done; journalctl --sync")
    journal, firewall, directory = granted("vacuum the journal"), granted("block sources"), granted("files of others")
    with watching.drop_in(AGENT, journal), watching.drop_in(AGENT, firewall), watching.drop_in(AGENT, directory):
        watching.run("systemctl", "restart", AGENT)
        runs = {name: begun(watching, name) for name in BEYOND}
        assert {name: run["state"] for name, run in runs.items()} == dict.fromkeys(BEYOND, "verified"), runs
        assert "203.0.113.9 timeout" in watching.run("nft", "list", "ruleset").stdout
        assert files(watching, "/srv/elsewhere") == set()
    watching.run("systemctl", "restart", AGENT)


def rows(lab: Lab) -> int:
    ask = f"import sqlite3; print(sqlite3.connect('{LEDGER}').execute('SELECT count(*) FROM requests').fetchone()[0])"
    return int(lab.run(f"{HOME}/bin/python", "-c", ask, user="llm-proxy").stdout)


def test_a_corrupt_ledger_is_put_back_by_the_last_resort(watching: Lab) -> None:
    """Archived while it is written, overwritten, put back: the proxy serves, the rows are there, and it writes on in a
    file that the agent, another user, has made; the cache was cleared."""
    watching.answer()
    watching.await_("the request is in the ledger", lambda: rows(watching), 30)
    before = rows(watching)
    archive = (f"{HOME}/bin/proxywatch", "--config", CONFIGURATION, "--json", "backup", "create", "llm-proxy")
    (made,) = json.loads(watching.run(*archive, user="proxywatch").stdout)["archives"]
    assert (made["good"], made["left_out"]) == (True, {})
    counted = 'proxywatch_backup_newest_timestamp_seconds{service="llm-proxy"} > 0'
    watching.await_("the agent knows it", lambda: watching.agent_says("query", counted)["result"], 60)
    with watching.drop_in(PROXY, "[Service]\nRestart=no\n"):
        watching.run("systemctl", "kill", "--signal=KILL", PROXY)
        watching.await_("it is down", lambda: "failed" in watching.booted.properties(PROXY, "ActiveState").values(), 30)
        watching.run("sh", "-c", f"rm -f {LEDGER}-*; head -c 4096 /dev/urandom > {LEDGER}")
        run = begun(watching, "emergency-recovery", SERVICE)
    notes = {effect["action"]: effect["note"] for effect in run["effects"]}
    assert run["state"] == "verified", (run["attempts"], notes)
    assert f"ledger.sqlite (file is not a database) from {made['name']}" in notes["restore_archive"]
    assert "removed 2 files" in notes["reset_cache"]
    shown = watching.run("stat", "--format=%U %G %a", LEDGER).stdout
    assert shown == "proxywatch llm-proxy 660\n"
    assert rows(watching) >= before
    watching.answer()
    watching.await_("the proxy writes on", lambda: rows(watching) > before, 30)


def test_it_may_write_nothing_that_root_reads(lab: Lab) -> None:
    """Of all that root or systemd reads and executes the agent's user may write configurations alone: no unit, no rule
    of polkit, no program; and neither replace nor read what systemd hands out as credentials."""
    kinds = ("-not", "-path", "/usr/share/*", "(", "-type", "f", "-o", "-type", "d", ")")
    ask = ("find", *READ_BY_ROOT, "-xdev", *kinds, "-writable")
    listed = lab.run(*ask, user="proxywatch", check=False).stdout.splitlines()
    assert "/etc/proxywatch/rules" in listed
    assert [p for p in listed if not f"{p}/".startswith(("/etc/proxywatch/", "/etc/llm-proxy/"))] == []
    place = "/etc/credstore/proxywatch"
    for command in (("ls", place), ("mv", place, f"{place}.old"), ("rmdir", place), ("ln", "-sfT", "/etc", place)):
        refused = lab.run(*command, user="proxywatch", check=False)
        assert refused.returncode != 0, command
        assert "Permission denied" in refused.stderr, refused.stderr
