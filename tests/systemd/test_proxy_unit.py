"""llm-proxy under its unit: start, deaths, hanging, stop, and a restart that no caller notices."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

from installed_lab import PROXY, URL, Lab

Record = Callable[[str, object], None]


def _main(lab: Lab) -> str:
    return lab.booted.properties(PROXY, "MainPID")["MainPID"]


def test_ready_is_when_a_worker_serves_and_the_status_says_so(lab: Lab, record_property: Record) -> None:
    """`systemctl start` returns when a worker serves; the answer comes under all hardening; STATUS counts workers."""
    lab.run("systemctl", "stop", PROXY)
    began = time.monotonic()
    lab.run("systemctl", "start", PROXY)
    record_property("figure", f"{PROXY}: ready {time.monotonic() - began:.2f} s after its start")
    assert lab.answer()["choices"][0]["message"]["content"].endswith("heard: hello")
    lab.await_("both serve", lambda: len(lab.workers()) == 2, 20)
    shown = lab.booted.properties(PROXY, "StatusText", "User", "NRestarts")
    assert shown == {"StatusText": "2 of 2 workers serve 127.0.0.1:8000", "User": "llm-proxy", "NRestarts": "0"}


def test_a_restart_under_load_fails_no_connection(serving: Lab, record_property: Record) -> None:
    """At 500 requests a second `systemctl restart` fails no connection, new or kept: callers wait in the socket."""
    rate, seconds, keeping = 500, 6.0, 8
    argv = serving.python("lab_load.py", str(rate), str(seconds), str(keeping), serving.caller_key)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as load:
        before = _main(serving)
        time.sleep(1.0)  # of load before, as there is some after
        began = time.monotonic()
        serving.run("systemctl", "restart", PROXY)
        took = time.monotonic() - began
        told = json.loads(load.communicate(timeout=60)[0])
    figures = f"{sum(told['seen'].values())} requests, the slowest {told['slowest']:.2f} s"
    record_property("figure", f"{PROXY}: restarted in {took:.2f} s at {rate} requests a second: {figures}")
    assert _main(serving) != before
    assert set(told["seen"]) == {"200"}
    assert told["seen"]["200"] >= rate * seconds


def test_a_killed_worker_is_replaced_under_the_unit(serving: Lab) -> None:
    """The master sees a worker's death and forks another in the same sandbox; systemd notices nothing."""
    before, main = serving.workers(), _main(serving)
    serving.run("kill", "-KILL", str(before[0]))
    serving.await_("another pid serves", lambda: serving.workers().get(0, before[0]) != before[0], 20)
    assert serving.workers()[1] == before[1]
    assert serving.answer()
    assert (_main(serving), serving.booted.properties(PROXY, "NRestarts")["NRestarts"]) == (main, "0")


def test_a_recycle_gives_the_group_what_it_asks(serving: Lab) -> None:
    """proxywatch, another user, may use the control sockets through its group; a stranger may not."""
    ask = ("curl", "--silent", "--fail", "--unix-socket", "/run/llm-proxy/master.sock", "http://master/status")
    assert json.loads(serving.run(*ask, user="proxywatch").stdout)["state"] == "serving"
    assert serving.run(*ask, user="nobody", check=False).returncode != 0


def test_a_killed_master_is_started_again_and_its_workers_go_with_it(serving: Lab) -> None:
    """systemd starts the service anew within seconds, the socket with it, and no process of the old one is left."""
    since, old = serving.booted.cursor(), serving.workers()
    serving.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", PROXY)
    serving.booted.await_journal(f"UNIT={PROXY}", "JOB_TYPE=start", "JOB_RESULT=done", seconds=30, since=since)
    assert serving.answer()
    assert serving.booted.properties(PROXY, "NRestarts")["NRestarts"] == "1"
    assert not set(old.values()) & set(serving.workers().values())


def test_a_hung_master_is_replaced_by_systemds_watchdog(lab: Lab) -> None:
    """A master that is stopped gives no signs of life; systemd ends it for that and starts another."""
    since = lab.booted.cursor()
    with lab.drop_in(PROXY, "[Service]\nWatchdogSec=3\n"):
        lab.run("systemctl", "restart", PROXY)
        lab.run("systemctl", "kill", "--signal=STOP", "--kill-whom=main", PROXY)
        killed = lab.booted.await_journal(f"UNIT={PROXY}", "UNIT_RESULT=watchdog", seconds=30, since=since)
        assert "watchdog" in killed["MESSAGE"]
    assert lab.answer()


def test_a_reload_returns_when_it_is_done_and_fails_when_it_is_refused(serving: Lab) -> None:
    """`systemctl reload` leaves the master and replaces every worker; of a broken file the service keeps the last."""
    main, before = _main(serving), serving.workers()
    serving.run("systemctl", "reload", PROXY)
    after = serving.workers()
    assert len(after) == len(before)
    assert not set(before.values()) & set(after.values())
    with serving.changed("/etc/llm-proxy/llm-proxy.yaml", "workers: many\n"):
        assert serving.run("systemctl", "reload", PROXY, check=False).returncode != 0
    assert (_main(serving), serving.workers()) == (main, after)
    assert serving.answer()


def test_a_reload_may_take_as_long_as_draining_takes(serving: Lab) -> None:
    """A worker that takes longer to drain than the unit allows delays the reload; systemd gives it the time."""
    slow = serving.workers()[0]
    serving.run("kill", "-STOP", str(slow))
    with (
        serving.drop_in(PROXY, "[Service]\nTimeoutStartSec=4\n"),
        subprocess.Popen(serving.booted.command("systemctl", "reload", PROXY)) as reload,
    ):
        try:
            time.sleep(5.0)  # longer than TimeoutStartSec=
            assert reload.poll() is None
        finally:
            serving.run("kill", "-CONT", str(slow))
        assert reload.wait(60) == 0


def test_polkit_allows_exactly_the_configured_units(serving: Lab) -> None:
    """The agent's user may reload the proxy's unit; another unit, another verb and another user are refused."""
    serving.run("systemctl", "reload", PROXY, user="proxywatch")
    for command in (("restart", "dbus.service"), ("kill", PROXY), ("mask", PROXY), ("daemon-reload",)):
        refused = serving.run("systemctl", "--no-ask-password", *command, user="proxywatch", check=False)
        assert refused.returncode != 0, command
        assert "authentication required" in refused.stderr
    stranger = serving.run("systemctl", "--no-ask-password", "restart", PROXY, user="nobody", check=False)
    assert stranger.returncode != 0


def test_who_stops_it_means_it(serving: Lab) -> None:
    """After `systemctl stop` a caller is refused and starts nothing, although the socket was systemd's."""
    serving.run("systemctl", "stop", PROXY)
    refused = serving.run("curl", "--silent", "--max-time", "5", f"{URL}/health/live", check=False)
    assert refused.returncode == 7  # curl's own number for a refused connection
    assert serving.booted.properties(PROXY, "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}


def test_without_the_socket_unit_it_listens_by_itself(lab: Lab) -> None:
    """With the socket masked the service binds what its configuration says."""
    lab.run("systemctl", "stop", PROXY)
    lab.run("systemctl", "mask", "--runtime", "llm-proxy.socket")
    try:
        lab.run("systemctl", "start", PROXY)
        assert lab.answer()
    finally:
        lab.run("systemctl", "stop", PROXY)
        lab.run("systemctl", "unmask", "--runtime", "llm-proxy.socket")


def test_a_configuration_that_is_broken_ends_in_a_finite_number_of_starts(lab: Lab) -> None:
    """systemd gives up after StartLimitBurst starts, and the journal says which key is wrong."""
    since = lab.booted.cursor()
    lab.run("systemctl", "stop", PROXY)
    with (
        lab.changed("/etc/llm-proxy/llm-proxy.yaml", "workers: many\n"),
        lab.drop_in(PROXY, "[Unit]\nStartLimitBurst=2\n"),
    ):
        lab.run("systemctl", "start", "--no-block", PROXY)
        lab.booted.await_journal(
            f"UNIT={PROXY}", "MESSAGE_ID=be02cf6855d2428ba40df7e9d022f03d", seconds=30, since=since
        )
        lab.await_("given up", lambda: lab.booted.properties(PROXY, "ActiveState")["ActiveState"] == "failed", 30)
        assert lab.booted.properties(PROXY, "NRestarts")["NRestarts"] == "2"
    said = [entry["MESSAGE"] for entry in lab.booted.journal(f"_SYSTEMD_UNIT={PROXY}", since=since)]
    assert any("workers" in line for line in said)
