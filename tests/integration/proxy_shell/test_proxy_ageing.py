"""How old workers may become, over real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import plain_http
import pytest
from proxy_service import Service


def recycled(service: Service, reason: str) -> float:
    text = plain_http.get(service.url("/metrics"), headers={"accept": "text/plain"}).text
    name = f'llm_proxy_worker_recycles_total{{reason="{reason}"}}'
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def pids(service: Service) -> list[int]:
    return [worker["pid"] for worker in service.workers()]


def test_workers_that_are_too_old_give_way_until_the_order_ends(service: Service) -> None:
    """An order replaces every worker that is older, one at a time, and counts it as age; a master that was killed
    finds its order again; with the age 0 it is over. None lets a worker become older than the configuration does."""
    service.settings["recycle"]["max_age"] = "1h"
    service.start()
    before = pids(service)
    assert service.ask("POST", "/recycle-age", {"seconds": 7200, "for_seconds": 60})[1]["seconds"] == 3600.0
    assert service.ask("POST", "/recycle-age", {"seconds": 0})[0] == 200
    assert service.ask("GET", "/status")[1]["recycle_age"] == {
        "seconds": 3600.0,
        "configured_seconds": 3600.0,
        "ordered": None,
    }
    code, told = service.ask("POST", "/recycle-age", {"seconds": 2, "for_seconds": 600, "reason": "it leaks"})
    assert (code, told["seconds"], told["ordered"]["reason"]) == (200, 2.0, "it leaks")
    assert told["ordered"]["until"] - told["ordered"]["since"] == pytest.approx(600)

    def all_fresh() -> bool:
        serving = [worker for worker in service.workers() if worker["state"] == "serving"]
        assert len(serving) == 2, "the old one serves until the fresh one does"
        return not {worker["pid"] for worker in serving} & set(before)

    service.until(all_fresh, 30)
    service.until(lambda: recycled(service, "age") >= 2)
    assert recycled(service, "command") == 0

    master = service.masters[-1]
    master.send_signal(signal.SIGKILL)
    master.wait()
    service.spawn()
    service.hear("serving on")
    assert service.ask("GET", "/status")[1]["recycle_age"]["ordered"] == told["ordered"]
    code, told = service.ask("POST", "/recycle-age", {"seconds": 0})
    assert (code, told["seconds"], told["ordered"]) == (200, 3600.0, None)
    assert not (service.place / "state/recycle_age.json").exists()


def test_what_is_no_age_is_refused(shared: Service) -> None:
    """It is said what is wrong, and the order before stays."""
    assert shared.ask("POST", "/recycle-age", {"seconds": 7200, "for_seconds": 60})[1]["seconds"] == 7200
    refused: list[tuple[dict[str, Any], str]] = [
        ({}, "seconds"),
        ({"seconds": 0.5, "for_seconds": 60}, "seconds"),
        ({"seconds": True, "for_seconds": 60}, "seconds"),
        ({"seconds": 60}, "for_seconds"),
        ({"seconds": 60, "for_seconds": 1e9}, "for_seconds"),
        ({"seconds": 60, "for_seconds": 60, "reason": 7}, "reason"),
    ]
    for body, word in refused:
        code, told = shared.ask("POST", "/recycle-age", body)
        assert (code, told["error"].split(":")[0]) == (400, word)
    assert shared.ask("GET", "/status")[1]["recycle_age"]["seconds"] == 7200
    assert shared.ask("POST", "/recycle-age", {"seconds": 0})[1]["seconds"] is None


def test_a_person_orders_in_durations(shared: Service) -> None:
    """The command says what is in force then, and does not take what is no duration."""

    def order(age: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "proxy", "recycle-age", age, "--for", "10m", "--config", str(shared.config)]
        return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)

    assert order("soon").returncode == 2
    done = order("30m")
    assert (done.returncode, done.stdout) == (0, "workers are replaced after 1800 s at the latest\n")
    ordered = shared.ask("GET", "/status")[1]["recycle_age"]["ordered"]
    assert (ordered["seconds"], ordered["reason"]) == (1800.0, "by hand")
    assert json.loads((shared.place / "state/recycle_age.json").read_text()) == ordered
    assert order("0").stdout == "workers may become any age\n"
