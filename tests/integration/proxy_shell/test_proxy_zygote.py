"""The zygote over real processes: what it forks is the master's own, and nothing depends on its life."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest
from proxy_service import Service

from proxy.errors import ConfigError
from proxy.forking import Zygote, ZygoteFailed
from proxy.plan import load_plan


def stat(pid: int) -> list[str]:
    """The fields of proc(5), stat, from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def targets(pid: int) -> set[str]:
    """What the process has open."""
    return {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}


def status(service: Service) -> dict[str, Any]:
    return service.ask("GET", "/status")[1]


def replaced(service: Service, slot: int, old: int) -> dict[str, Any] | None:
    worker = service.workers()[slot]
    return worker if worker["state"] == "serving" and worker["pid"] != old else None


def test_what_it_forks_is_the_masters_own_child(shared: Service) -> None:
    """A worker's parent is the master, it leads a session of its own, bears its name, has no descriptor of the
    zygote's, and its exit status is seen."""
    now = status(shared)
    for worker in now["workers"]:
        fields = stat(worker["pid"])
        assert (int(fields[1]), int(fields[3])) == (now["pid"], worker["pid"])
        assert Path(f"/proc/{worker['pid']}/comm").read_text() == f"llm-proxy-w{worker['slot']}\n"
        theirs = targets(worker["pid"])
        assert not {end for end in targets(now["zygote_pid"]) if end.startswith("socket:")} & theirs
    with pytest.raises(httpx.TransportError):
        plain_http.post(shared.url("/debug/fault"), json={"kind": "crash"}, headers=shared.admin)
    shared.until(lambda: "exit 70" in [worker["last_exit"] for worker in shared.workers()])
    shared.until(lambda: all(worker["state"] == "serving" for worker in shared.workers()))


def test_workers_that_were_forked_alike_differ(shared: Service) -> None:
    """What must be unique is so although all began as the same memory."""
    seen: set[str] = set()

    def both() -> bool:
        seen.add(plain_http.get(shared.url("/health/live")).headers["x-request-id"][:12])
        return len(seen) == 2

    shared.until(both)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "stopped"])
def test_without_a_zygote_workers_start_all_the_same(shared: Service, number: signal.Signals) -> None:
    """A zygote that dies or hangs delays a worker's replacement, prevents none, and is replaced itself."""
    before = status(shared)
    old = before["workers"][0]["pid"]
    os.kill(before["zygote_pid"], number)
    if number == signal.SIGKILL:
        shared.until(lambda: status(shared)["zygote_pid"] is None)
    os.kill(old, signal.SIGKILL)
    worker = shared.until(lambda: replaced(shared, 0, old))
    assert b"worker" in Path(f"/proc/{worker['pid']}/cmdline").read_bytes().split(b"\0"), "a fresh interpreter"
    fresh = shared.until(lambda: status(shared)["zygote_pid"])
    assert fresh != before["zygote_pid"]
    assert not Path(f"/proc/{before['zygote_pid']}").exists()
    os.kill(worker["pid"], signal.SIGKILL)
    forked = shared.until(lambda: replaced(shared, 0, worker["pid"]))
    assert b"zygote" in Path(f"/proc/{forked['pid']}/cmdline").read_bytes().split(b"\0")


def test_a_recycle_of_all_takes_the_code_of_today(shared: Service) -> None:
    """POST /recycle forks from a zygote that was started for it; the old one is gone."""
    before = status(shared)["zygote_pid"]
    assert shared.ask("POST", "/recycle")[0] == 200
    after = status(shared)["zygote_pid"]
    assert after not in (before, None)
    assert not Path(f"/proc/{before}").exists()


def test_a_killed_master_takes_its_zygote_along(service: Service) -> None:
    """The zygote ends by itself when nobody holds it any more."""
    service.settings["workers"] = 1
    service.start()
    zygote = status(service)["zygote_pid"]
    service.masters[0].kill()
    service.masters[0].wait()
    service.until(lambda: not Path(f"/proc/{zygote}").exists())


def test_it_judges(service: Service) -> None:
    """A good file becomes a plan, a bad one a ConfigError with its place; the zygote serves on after both, and after
    its end it says so."""
    service.write()
    zygote = Zygote()
    try:
        assert load_plan(zygote, str(service.config), {"workers": 3}).workers == 3
        service.config.write_text("porrt: 1\n")
        with pytest.raises(ConfigError, match=r"c.yaml:1: porrt: unknown key; did you mean port\?"):
            load_plan(zygote, str(service.config), {})
        zygote.warm()
    finally:
        zygote.close()
    with pytest.raises(ZygoteFailed):
        zygote.warm()


def test_orphans_are_buried() -> None:
    """A descendant whose parent died is reaped by the subreaper, and its own child that it waits for is not."""
    script = """
import os, signal, subprocess, sys, time
from proxy.forking import adopt_orphans, bury_orphans
adopt_orphans()
mine = subprocess.Popen(["true"])
subprocess.run(["sh", "-c", "sleep 0.05 & exit 0"])
children = f"/proc/self/task/{os.getpid()}/children"
while len(open(children).read().split()) < 2: time.sleep(0.01)
deadline = time.monotonic() + 10
while len(open(children).read().split()) > 1 and time.monotonic() < deadline:
    bury_orphans({mine.pid})
    time.sleep(0.01)
assert open(children).read().split() == [str(mine.pid)]
assert mine.wait() == 0
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr.decode()
