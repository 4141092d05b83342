"""A worker's own account of itself on its private socket, tracing, and its share of the traffic meanwhile."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from proxy_service import Service, make_service

from proxy.control import request

HELLO = {"model": "demo-small", "messages": [{"role": "user", "content": "hello"}]}


def worker(service: Service, slot: int, method: str, target: str, body: dict[str, Any] | None = None) -> Any:
    return request(service.place / f"run/worker-{slot}.sock", method, target, body, timeout=60)


def test_a_worker_counts_what_it_holds(shared: Service) -> None:
    """Requests, threads, tasks, descriptors, sockets among them, and how many descriptors it may have: as the kernel
    and its callers know them."""
    _, before = worker(shared, 0, "GET", "/health")
    pid = before["pid"]
    with httpx.Client() as client:
        for _ in range(8):
            assert client.get(shared.url("/health/live"), headers={"connection": "close"}).status_code == 200
    _, after = worker(shared, 0, "GET", "/health")
    _, other = worker(shared, 1, "GET", "/health")
    assert after["requests"] + other["requests"] >= before["requests"] + 8
    process = Path(f"/proc/{pid}")
    assert after["threads"] == len(list((process / "task").iterdir()))
    links = [str(entry.readlink()) for entry in (process / "fd").iterdir()]
    assert abs(after["descriptors"] - len(links)) <= 2
    assert abs(after["sockets"] - sum(link.startswith("socket:") for link in links)) <= 2
    limits = (process / "limits").read_text().splitlines()
    (limit,) = [line.split()[3] for line in limits if line.startswith("Max open files")]
    assert after["descriptors_limit"] == int(limit)


class Callers:
    """Threads that ask all the time, each over a connection that it keeps as long as it may, or over new ones."""

    def __init__(self, url: str, threads: int, *, keep: bool) -> None:
        self._url = url
        self._headers = {} if keep else {"connection": "close"}
        self._stop = threading.Event()
        self.answered = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._call) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                answer = client.post(self._url, json=HELLO, headers=self._headers)
                self.answered += 1
                if answer.status_code != 200:
                    self.failures.append(f"{answer.status_code}: {answer.text}")
                time.sleep(0.01)


@pytest.fixture(scope="module")
def four() -> Iterator[Service]:
    """A service of four workers."""
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        made = make_service(Path(name))
        made.settings["workers"] = 4
        made.start()
        yield made
        made.end()


@pytest.mark.parametrize("keep", [True, False], ids=["kept connections", "new connections"])
def test_a_traced_worker_takes_the_share_that_it_was_told(four: Service, keep: bool) -> None:
    """Of four workers one is traced at a tenth: it gets that much of the requests whether callers keep their
    connections or not, and nobody is refused or left waiting; when tracing ends the share does."""

    def served() -> list[int]:
        return [worker(four, slot, "GET", "/health")[1]["requests"] for slot in range(4)]

    def parts(least: int) -> list[float]:
        before = served()
        four.until(lambda: sum(served()) - sum(before) >= least, 40)
        each = [now - then for now, then in zip(served(), before, strict=True)]
        return [one / sum(each) for one in each]

    with Callers(four.url("/v1/chat/completions"), 8, keep=keep) as callers:
        usual = parts(100)
        slot = usual.index(max(usual))
        code, traced = worker(four, slot, "POST", "/memory/trace", {"limit_seconds": 300, "share": 0.1})
        assert (code, traced["share"]) == (200, 0.1), traced
        four.until(lambda: 0.02 <= parts(300)[slot] <= 0.2, 60)
        assert worker(four, slot, "DELETE", "/memory/trace")[0] == 200
        four.until(lambda: worker(four, slot, "GET", "/health")[1]["share"] == 1.0)
    assert callers.answered >= 400
    assert callers.failures == []


def test_a_share_ends_with_the_limit_of_tracing_and_is_nothing_alone(four: Service) -> None:
    """When the hard limit ends tracing the worker takes its part again, without being told; a share that is no smaller
    than its part changes nothing; what is no share is refused, and nothing is traced."""
    for share in (-0.1, 1.1, "half", True):
        assert worker(four, 0, "POST", "/memory/trace", {"share": share})[0] == 400
    assert worker(four, 0, "GET", "/memory")[1]["tracing"] is None
    assert worker(four, 0, "POST", "/memory/trace", {"limit_seconds": 1, "share": 0.25})[1]["share"] == 1.0
    four.until(lambda: worker(four, 0, "GET", "/memory")[1]["tracing"] is None)
    assert worker(four, 0, "POST", "/memory/trace", {"limit_seconds": 1, "share": 0})[1]["share"] == 0.0
    four.until(lambda: worker(four, 0, "GET", "/health")[1]["share"] == 1.0)


def test_out_of_rotation_it_still_serves_when_nobody_else_does(four: Service) -> None:
    """With all others stopped, requests are answered by the one worker that was told to take none."""
    assert worker(four, 2, "POST", "/memory/trace", {"limit_seconds": 60, "share": 0})[1]["share"] == 0.0
    others = [one["pid"] for one in four.workers() if one["slot"] != 2]
    before = worker(four, 2, "GET", "/health")[1]["requests"]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(3):
            answer = httpx.get(four.url("/health/live"), headers={"connection": "close"}, timeout=30)
            assert answer.status_code == 200
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)
    assert worker(four, 2, "GET", "/health")[1]["requests"] == before + 3
    assert worker(four, 2, "DELETE", "/memory/trace")[0] == 200
