"""From kill -9 to the first good answer: a worker under llm-proxy's master, all of it under proxywatch, under Monit."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench.figures import Aim, BenchError, Figure
from tests.bench.lab import BIN, Lab, Proxy, lab, only, until
from tests.bench.machine import children, peer

_AIM = Aim(1 / 20, "ratio")
_PATIENCE_SECONDS = 30.0
_PROBE_EVERY_SECONDS = 0.001
_QUESTION = b'{"model":"demo-small","messages":[{"role":"user","content":"Are you there?"}]}'
_REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nconnection: close\r\ncache-control: no-store\r\n"
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
    """One kill. Seconds until an answer was good, and until everything was as before."""

    answered: float
    whole: float
    failed: int


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
    monit = [] if peer("monit") is None else _under_monit(rounds)
    one_of_two = [_kill_worker(workers=2) for _ in range(rounds)]
    only_one = [_kill_worker(workers=1) for _ in range(rounds)]
    yield _figure("one of two workers killed, first good answer", [r.answered for r in one_of_two], monit, _AIM)
    yield _figure("one of two workers killed, both serve again", [r.whole for r in one_of_two], monit)
    yield _figure("the only worker killed, first good answer", [r.answered for r in only_one], monit)
    all_killed = [_kill_all_under_proxywatch() for _ in range(rounds)]
    yield _figure("all of llm-proxy killed, first good answer", all_killed, monit, _AIM)
    lost = sum(repair.failed for repair in only_one)
    yield Figure("Recovery", f"requests refused or cut in {rounds} kills of the only worker", lost, "")


def _figure(what: str, seconds: Iterable[float], monit: list[float], aim: Aim | None = None) -> Figure:
    ours = [each * 1000 for each in seconds]
    note = _range(ours) + (f", Monit {_range([each * 1000 for each in monit])}" if monit else "")
    peers = "Monit, 1 s cycle, restarting all of it"
    return Figure("Recovery", what, median(ours), "ms", peers, median(monit) * 1000 if monit else None, aim, note)


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


def kill_all(master: int) -> float:
    """Kills master and workers at once; when (perf_counter)."""
    everybody = [master, *children(master)]
    began = time.perf_counter()
    for pid in everybody:
        os.kill(pid, signal.SIGKILL)
    return began


def _kill_all_under_proxywatch() -> float:
    with lab() as place:
        file, port = place.configure_proxy("llm-proxy", only(place.upstream()), workers=2)
        place.watchdog(file, port)
        proxy = Proxy(file, port, place.root / "llm-proxy/run/master.sock", 0)
        master = int(proxy.ask("GET", "/status")["pid"])
        return first_good_answer(port, kill_all(master))[0]


def _under_monit(rounds: int) -> list[float]:
    program = peer("monit")
    assert program is not None
    with lab() as place:
        file, port = place.configure_proxy("llm-proxy", only(place.upstream()), workers=2)
        pid_file = place.root / "llm-proxy.pid"
        _write_monit_files(place, file)
        place.start("monit", [program, "-I", "-c", place.root / "monitrc"])
        until("Monit starts the proxy", lambda: ask(port), _PATIENCE_SECONDS)
        repairs = []
        for _ in range(rounds):
            # Kills come at any point of Monit's cycle, and not before it has seen the service well again.
            time.sleep(random.uniform(2.5, 3.5))
            repairs.append(first_good_answer(port, kill_all(int(pid_file.read_text())))[0])
        return repairs


def _write_monit_files(place: Lab, file: Path) -> None:
    # Its parent reaps it at once: where process 1 is slow at that, Monit would wait for a zombie and look too slow.
    runs = f"{BIN}/llm-proxy run --config {file} & echo $! >llm-proxy.pid; wait"
    (place.root / "start.sh").write_text(f"cd {place.root}\n( {runs} ) >>llm-proxy.out 2>&1 </dev/null &\n")
    control = place.root / "monitrc"
    control.write_text(_MONITRC.format(root=place.root))
    control.chmod(0o600)
