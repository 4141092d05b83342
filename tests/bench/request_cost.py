"""CPU per request and per stream chunk, and latency added, beside nginx before the same upstream."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from tests.bench.figures import Aim, BenchError, Figure
from tests.bench.lab import Lab, free_port, get, lab, only
from tests.bench.load import Kind, run
from tests.bench.machine import children, cpu_seconds, peer

_CONNECTIONS = (16, 64)
_STREAMS = 32
_AIM = Aim(12.0, "ratio")
_NGINX = """
%(user)s
daemon off;
worker_processes 1;
pid nginx.pid;
error_log nginx-error.log;
events { worker_connections 1024; }
http {
  access_log nginx-access.log;
  client_body_temp_path body;
  proxy_temp_path temporary;
  fastcgi_temp_path temporary;
  uwsgi_temp_path temporary;
  scgi_temp_path temporary;
  keepalive_requests 1000000000;
  upstream provider { server 127.0.0.1:%(upstream)d; keepalive 256; keepalive_requests 1000000000; }
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  server { listen 127.0.0.1:%(port)d; location / { proxy_pass http://provider; } }
  server { listen 127.0.0.1:%(streaming)d; location / { proxy_pass http://provider; proxy_buffering off; } }
}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A proxy under load. `streaming` is the port for streams."""

    port: int
    streaming: int
    pids: list[int]


@dataclass(frozen=True, slots=True)
class Length:
    """Rounds in which all targets take their turns, so that what disturbs the machine disturbs all of them."""

    rounds: int
    seconds: float
    warm_up_seconds: float = 1.0


def measure(quick: bool) -> Iterator[Figure]:
    """All rows of this part."""
    length = Length(1, 1) if quick else Length(3, 3)
    if peer("wrk") is None:
        return
    with lab() as place:
        upstream = place.upstream()
        nginx = _nginx(place, upstream)
        proxies = {}
        for workers in (1, 2):
            proxy = place.proxy(f"llm-proxy-{workers}", only(upstream), workers)
            proxies[workers] = Target(proxy.port, proxy.port, proxy.pids())
        yield from _requests(place, proxies, nginx, length)
        yield from _streams(place, proxies[1], nginx, upstream, length)
        yield from _latencies(place, proxies[1], nginx, upstream, length)


def _nginx(place: Lab, upstream: int) -> Target | None:
    program = peer("nginx")
    if program is None:
        return None
    port, streaming = free_port(), free_port()
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    file = place.root / "nginx.conf"
    file.write_text(_NGINX % {"user": user, "upstream": upstream, "port": port, "streaming": streaming})
    argv = [program, "-p", str(place.root), "-c", str(file), "-e", str(place.root / "nginx-error.log")]
    process = place.start("nginx", argv, port=port)
    return Target(port, streaming, [process.pid, *children(process.pid)])


_ROWS = tuple(
    (kind, what, workers)
    for kind, what in ((Kind.PROXIED, "proxied"), (Kind.STORED, "proxied and stored"), (Kind.HIT, "cache hit"))
    for workers in (1, 2)
)


@dataclass(frozen=True, slots=True)
class _Cost:
    microseconds: float
    rate: float


def _requests(place: Lab, proxies: dict[int, Target], nginx: Target | None, length: Length) -> Iterator[Figure]:
    for connections in _CONNECTIONS:
        turns = {(kind, workers): (kind, proxies[workers]) for kind, _, workers in _ROWS}
        if nginx is not None:
            turns[Kind.PROXIED, 0] = (Kind.PROXIED, nginx)
        costs: dict[tuple[Kind, int], list[_Cost]] = {turn: [] for turn in turns}
        for kind, target in turns.values():
            run(place.root, kind, target.port, connections, length.warm_up_seconds)
        for _ in range(length.rounds):
            for turn, (kind, target) in turns.items():
                costs[turn].append(_cost(place, target, kind, connections, length.seconds))
        middle = {turn: _middle(measured) for turn, measured in costs.items()}
        theirs = middle.get((Kind.PROXIED, 0))
        for kind, what, workers in _ROWS:
            ours = middle[kind, workers]
            yield Figure(
                "CPU per request",
                f"{what}, {connections} connections, {workers} worker{'s' * (workers > 1)}",
                ours.microseconds,
                "µs",
                "nginx proxying",
                None if theirs is None else theirs.microseconds,
                _AIM if kind is Kind.PROXIED and connections == 16 else None,
                f"{ours.rate:,.0f}/s" + (f", nginx {theirs.rate:,.0f}/s" if theirs else ""),
            )


def _middle(costs: list[_Cost]) -> _Cost:
    return _Cost(median(cost.microseconds for cost in costs), median(cost.rate for cost in costs))


def _cost(place: Lab, target: Target, kind: Kind, connections: int, seconds: float) -> _Cost:
    before = cpu_seconds(target.pids)
    load = run(place.root, kind, target.port, connections, seconds)
    return _Cost((cpu_seconds(target.pids) - before) / load.requests * 1e6, load.rate)


def _streams(place: Lab, ours: Target, nginx: Target | None, upstream: int, length: Length) -> Iterator[Figure]:
    def cost(target: Target) -> float:
        chunks, cpu = _chunks(upstream), cpu_seconds(target.pids)
        run(place.root, Kind.STREAM, target.streaming, _STREAMS, length.seconds + 1)
        sent = _chunks(upstream) - chunks
        if not sent:
            raise BenchError("no chunk was streamed")
        return (cpu_seconds(target.pids) - cpu) / sent * 1e6

    targets = [ours] if nginx is None else [ours, nginx]
    rounds = [[cost(target) for target in targets] for _ in range(length.rounds)]
    through, *beside = (median(costs) for costs in zip(*rounds, strict=True))
    what = f"{_STREAMS} streams, a chunk every 10 ms in each, 1 worker"
    yield Figure("CPU per stream chunk", what, through, "µs", "nginx", next(iter(beside), None))


def _chunks(upstream: int) -> int:
    return int(json.loads(get(upstream, "/counts")[1])["chunks"])


def _latencies(place: Lab, ours: Target, nginx: Target | None, upstream: int, length: Length) -> Iterator[Figure]:
    ports = [upstream, ours.port] if nginx is None else [upstream, ours.port, nginx.port]
    rounds = [[run(place.root, Kind.PROXIED, port, 1, length.seconds) for port in ports] for _ in range(length.rounds)]
    for name in ("p50", "p99"):
        direct, through, *beside = (
            median(getattr(load, name) for load in loads) for loads in zip(*rounds, strict=True)
        )
        theirs = beside[0] - direct if beside else None
        what = f"{name}, over {direct:.0f} µs without a proxy"
        yield Figure("Latency added at one connection", what, through - direct, "µs", "nginx", theirs)
