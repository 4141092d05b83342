"""From kill -9 to the first good answer: a worker under llm-proxy's master, all of it under proxywatch, under Monit."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench.figures import Aim, BenchError, Figure
from tests.bench.lab import BIN, Lab, Proxy, lab, only, until
from tests.bench.machine import children, peer
from watchdog.system.process import identify

_AIM = Aim(1 / 20, "ratio")
_PATIENCE_SECONDS = 30.0
_PROBE_EVERY_SECONDS = 0.001
_QUESTION = b'{"model":"demo-small","messages":[{"role":"user","content":"Are you there?"}]}'
_REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncache-control: no-store\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_QUESTION), _QUESTION)
)
_MONITRC = """
set daemon 1
set pidfile {root}/monit.pid
set idfile {root}/monit.id
set statefile {root}/monit.state
set log {root}/monit-own.log
check process llm-proxy with pidfile {root}/llm-proxy.pid
  start program = "/bin/sh {root}/start.sh"
"""


@dataclass(frozen=True, slots=True)
class Repair:
    """One kill of a worker. Seconds until an answer was good, and until as many workers served as before."""

    answered: float
    whole: float
    failed: int


@dataclass(frozen=True, slots=True)
class Restart:
    """One kill of everything. Seconds until the new master began (to a hundredth), and until an answer was good."""

    begun: float
    answered: float


def ask(port: int) -> bool:
    """One chat completion over a fresh connection; whether it was answered well."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_SECONDS) as connection:
            connection.sendall(_REQUEST)
            head = b""
            while b"\r\n" not in head and (data := connection.recv(65536)):
                head += data
            return head.startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def first_good_answer(port: int, began: float) -> tuple[float, int]:
    """Seconds since `began` (perf_counter) of the first good answer, and how many attempts failed before it."""
    failed = 0
    while not ask(port):
        failed += 1
        if time.perf_counter() - began > _PATIENCE_SECONDS:
            raise BenchError(f"no good answer within {_PATIENCE_SECONDS:g} s of the kill")
        time.sleep(_PROBE_EVERY_SECONDS)
    return time.perf_counter() - began, failed


def measure(quick: bool) -> Iterator[Figure]:
    """All rows of this part."""
    rounds = 2 if quick else 7
    monit = None if peer("monit") is None else _under_monit(rounds)
    theirs = None if monit is None else [restart.answered for restart in monit]
    one_of_two = [_kill_worker(workers=2) for _ in range(rounds)]
    yield _figure("one of two workers killed, first good answer", [r.answered for r in one_of_two], theirs, _AIM)
    yield _figure("one of two workers killed, both serve again", [r.whole for r in one_of_two], theirs)
    only_one = [_kill_worker(workers=1) for _ in range(rounds)]
    lost = sum(repair.failed for repair in only_one)
    what = f"the only worker killed, first good answer; {lost} attempts failed meanwhile"
    yield _figure(what, [r.answered for r in only_one], theirs)
    whole = [_under_proxywatch() for _ in range(rounds)]
    begun = None if monit is None else [restart.begun for restart in monit]
    yield _figure("all of llm-proxy killed, a new one is started", [restart.begun for restart in whole], begun)
    yield _figure("all of llm-proxy killed, first good answer", [restart.answered for restart in whole], theirs, _AIM)


def _figure(what: str, seconds: list[float], monit: list[float] | None, aim: Aim | None = None) -> Figure:
    ours = [each * 1000 for each in seconds]
    theirs = None if monit is None else [each * 1000 for each in monit]
    note = _range(ours) if theirs is None else f"{_range(ours)}, Monit {_range(theirs)}"
    return Figure("Recovery", what, median(ours), "ms", "Monit", None if theirs is None else median(theirs), aim, note)


def _range(milliseconds: list[float]) -> str:
    return f"{min(milliseconds):.1f} to {max(milliseconds):.1f}"


def _kill_worker(workers: int) -> Repair:
    """A fresh proxy each time, for its master backs off from workers that keep dying."""
    with lab() as place:
        proxy = place.proxy("llm-proxy", only(place.upstream()), workers)
        before = proxy.workers()
        if not ask(proxy.port):
            raise BenchError("the proxy does not answer before the kill")
        began = time.perf_counter()
        os.kill(before[0], signal.SIGKILL)
        answered, failed = first_good_answer(proxy.port, began)

        def replaced() -> bool:
            serving = proxy.workers()
            return len(serving) == workers and before[0] not in serving

        until("the worker is replaced", replaced, _PATIENCE_SECONDS, every=0.005)
        return Repair(answered, time.perf_counter() - began, failed)


def _kill_all(master: int, port: int, newest: Callable[[], int]) -> Restart:
    """Kills master and workers at once, and asks until it is well; `newest` says who the master is then."""
    everybody = [master, *children(master)]
    began, booted = time.perf_counter(), time.clock_gettime(time.CLOCK_BOOTTIME)
    for pid in everybody:
        os.kill(pid, signal.SIGKILL)
    answered, _ = first_good_answer(port, began)
    fresh = identify(newest())
    if fresh is None or fresh.pid == master:
        raise BenchError("it answers, but its master is not a new one")
    return Restart(max(0.0, fresh.start_ticks / os.sysconf("SC_CLK_TCK") - booted), answered)


def _under_proxywatch() -> Restart:
    """A fresh watchdog each time, for its guards hold back a playbook that has just run."""
    with lab() as place:
        file, port = place.configure_proxy("llm-proxy", only(place.upstream()), workers=2)
        place.watchdog(file, port)
        proxy = Proxy(file, port, place.root / "llm-proxy/run/master.sock", 0)

        def master() -> int:
            return int(proxy.ask("GET", "/status")["pid"])

        until("all workers serve", lambda: len(proxy.workers()) == 2, _PATIENCE_SECONDS)
        return _kill_all(master(), port, master)


def _under_monit(rounds: int) -> list[Restart]:
    program = peer("monit")
    assert program is not None
    with lab() as place:
        file, port = place.configure_proxy("llm-proxy", only(place.upstream()), workers=2)

        def master() -> int:
            return int((place.root / "llm-proxy.pid").read_text())

        _write_monit_files(place, file)
        place.start("monit", [program, "-I", "-c", place.root / "monitrc"])
        until("Monit starts the proxy", lambda: ask(port), _PATIENCE_SECONDS)
        repairs = []
        for _ in range(rounds):
            # Kills come at any point of Monit's cycle, and not before it has seen the service well again.
            time.sleep(random.uniform(2.5, 3.5))
            repairs.append(_kill_all(master(), port, master))
        return repairs


def _write_monit_files(place: Lab, file: Path) -> None:
    # Its parent reaps it at once: where process 1 is slow at that, Monit would wait for a zombie and look too slow.
    runs = f"{BIN}/llm-proxy run --config {file} & echo $! >llm-proxy.pid; wait"
    (place.root / "start.sh").write_text(f"cd {place.root}\n( {runs} ) >>llm-proxy.out 2>&1 </dev/null &\n")
    control = place.root / "monitrc"
    control.write_text(_MONITRC.format(root=place.root))
    control.chmod(0o600)
