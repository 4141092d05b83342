"""From a host without any of it to a healed fault, another release and back, and to nothing left: the whole story."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bare_host import CHECKOUT, URL, BareHost
from booted_system import BootedSystem, BootError, unfit

from watchdog.journal.message_ids import MESSAGE_IDS

OUR_OWN = ("/etc/llm-proxy", "/etc/proxywatch", "/var/lib/llm-proxy", "/var/lib/proxywatch", "/var/log/llm-proxy")
CURRENT = "/opt/proxywatch/current"
CALLER_KEY = "/run/credentials/llm-proxy.service/secret_caller"
RESOLVED = MESSAGE_IDS["resolved"]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[BareHost]:
    """A container of its own: what is installed here is removed again, and more."""
    reason = unfit()
    booted = None
    if reason is None:
        try:
            booted = BootedSystem(tmp_path / "lab", bare=True)
        except BootError as error:
            reason = f"no container can be booted here: {error}"
    if booted is None:
        if os.environ.get("CI") == "true":
            pytest.fail(str(reason))
        pytest.skip(str(reason))
    try:
        yield BareHost(booted)
    finally:
        booted.close()


def ours(host: BareHost) -> set[str]:
    """Every file with one of our names on the host, other than its checkout and its caller's environment."""
    argv = (
        "find",
        "/",
        "-xdev",
        "(",
        "-path",
        "/opt/c*",
        "-o",
        "-path",
        "/work",
        "-o",
        "-path",
        "/root",
        ")",
        "-prune",
    )
    names = ("-o", "(", "-name", "*llm-proxy*", "-o", "-name", "*proxywatch*", ")", "-print")
    return set(host.booted.run(*argv, *names).stdout.splitlines())


@pytest.mark.timeout(400)
def test_from_a_bare_host_to_a_healed_fault_and_back(host: BareHost) -> None:
    """Installed, serving, healed; a second time nothing to do; an upgrade drops no connection, and goes back from a
    release that cannot serve; removed twice, nothing is left that was not said."""
    before, began = ours(host), time.monotonic()

    def passed(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}")

    _install(host)
    passed("installed and well")
    _heal(host)
    passed("healed")
    assert set(host.steps("install").values()) == {"ok"}
    passed("again: nothing to do")
    _upgrade(host)
    passed("upgraded under load")
    _go_back(host)
    passed("went back from a release that cannot serve")
    _remove(host, before)
    passed("removed, twice")


def _install(host: BareHost) -> None:
    refused = host.proxywatch("install", user="nobody", check=False)
    assert (refused.returncode, "needs root" in refused.stderr) == (1, True)
    became = host.steps("install")
    assert set(became.values()) == {"did", "ok"}
    assert became["start proxywatch.service"] == "did"
    assert host.chat().endswith("heard: hello")
    key = host.at("/etc/credstore/proxywatch/llm-proxy-admin.key")
    assert (key.stat().st_mode & 0o777, key.stat().st_uid) == (0o600, 0)
    ask = ("curl", "--silent", "--fail", "-H", f"authorization: Bearer {key.read_text().strip()}")
    host.booted.run(*ask, f"{URL}/debug/cache/stats")
    enabled = host.booted.run("systemctl", "is-enabled", "llm-proxy.socket", "llm-proxy.service", "proxywatch.service")
    assert enabled.stdout.split() == ["enabled"] * 3


def _heal(host: BareHost) -> None:
    """A worker that is stopped answers nobody; the agent, another user, has it replaced."""
    (service,) = host.installed("status")["services"]
    since = host.booted.cursor()
    host.booted.run("kill", "-STOP", str(service["workers"][0]["pid"]))
    told = ("_SYSTEMD_UNIT=proxywatch.service", "TARGET=worker:llm-proxy/0", f"MESSAGE_ID={RESOLVED}")
    assert "healed" in host.booted.await_journal(*told, seconds=60, since=since)["MESSAGE"]
    assert host.chat()


def _upgrade(host: BareHost) -> None:
    """With a configuration that somebody has changed: a caller's key, which systemd hands to the proxy alone."""
    old = host.at(CURRENT).readlink()
    host.booted.write("/etc/credstore/llm-proxy/caller", "a caller's key\n", 0o600)
    configuration = host.at("/etc/llm-proxy/llm-proxy.yaml")
    mine = configuration.read_text().replace("  keys:\n", f"  keys:\n    - {{id: caller, key_file: {CALLER_KEY}}}\n")
    configuration.write_text(mine)
    with host.at(f"{CHECKOUT}/proxy/__init__.py").open("a") as file:
        file.write("# another release\n")
    host.booted.write("/opt/lab_knock.py", (Path(__file__).parent / "lab_knock.py").read_text())
    argv = host.booted.command("/usr/bin/env", "python3", "/opt/lab_knock.py", f"{URL}/health/live")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as knocking:
        became = host.steps("upgrade")
        seen = json.loads(knocking.communicate("", timeout=60)[0])
    print(f"        {seen}")
    assert became["start llm-proxy.service"] == "did"
    assert host.at(CURRENT).readlink() != old
    assert set(seen) == {"200"}
    assert seen["200"] > 100
    assert configuration.read_text() == mine
    again = host.steps("upgrade")
    assert {says for says, became in again.items() if became != "ok"} == {"write /etc/llm-proxy/llm-proxy.yaml"}
    host.booted.run("curl", "--fail", "-H", "authorization: Bearer a caller's key", f"{URL}/v1/models")
    told = ("_SYSTEMD_UNIT=proxywatch.service", "--grep=llm-proxy: archived as .*accepted")
    host.booted.await_journal(*told, seconds=60)  # so that the agent has judged it, and found it good


def _go_back(host: BareHost) -> None:
    good = host.at(CURRENT).readlink()
    with host.at(f"{CHECKOUT}/proxy/master.py").open("a") as file:
        file.write("raise RuntimeError('this release cannot serve')\n")
    failed = host.proxywatch("upgrade", check=False)
    assert failed.returncode == 1
    assert "this release cannot serve" in failed.stdout  # the journal's last words
    assert "all is as it was before, and well" in failed.stderr
    assert host.at(CURRENT).readlink() == good
    assert host.chat()


def _remove(host: BareHost, before: set[str]) -> None:
    became = host.steps("uninstall")
    assert set(became.values()) <= {"did", "ok"}
    assert not host.at("/usr/local/bin/proxywatch").is_symlink()
    left = json.loads(host.proxywatch("uninstall", "--json").stdout)
    assert left["outcome"] == "nothing to do"
    said = {note.partition(":")[0] for note in left["notes"]}
    assert said.issuperset(OUR_OWN)
    assert not host.at("/opt/proxywatch").exists()
    assert {path for path in ours(host) - before if not path.startswith(tuple(said))} == set()
    purged = json.loads(host.proxywatch("uninstall", "--purge", "--json").stdout)
    assert [note.partition(":")[0] for note in purged["notes"]] == ["the user llm-proxy", "the user proxywatch"]
    assert ours(host) - before == set()
    units = host.booted.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "*proxy*").stdout
    assert units == ""
