"""CPU per request and per stream chunk, and latency added, beside other proxies before the same upstream.

llm-proxy runs with all that it has: callers' keys, limits, cache, ledger, JSON log, metrics.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

from tests.bench.at_rest import at_rest
from tests.bench.figures import Aim, BenchError, Figure
from tests.bench.lab import Lab, get, lab, only
from tests.bench.load import Kind, Load, run
from tests.bench.machine import cpu_seconds, peer
from tests.bench.peers import Target, gateways, nginx

T = TypeVar("T")

_CONNECTIONS = (16, 64)
_STREAMS = 32
_OF_NGINX = Aim(10.0, "ratio")
_OF_PORTKEY = Aim(0.2, "ratio")
_HIT = Aim(80.0, "figure")
_ADDED = Aim(1500.0, "figure")


@dataclass(frozen=True, slots=True)
class Length:
    """Rounds in which all targets take their turns, so that what disturbs the machine disturbs all of them."""

    rounds: int
    seconds: float
    warm_up_seconds: float
    """Each server under each kind of load; some compile what is used often."""


@dataclass(frozen=True, slots=True)
class _Cost:
    microseconds: float
    rate: float


def everything_on(place: Lab, name: str, upstream: int, workers: int) -> Target:
    """Our proxy, for callers with a key and with limits that are kept but never reached."""
    token = secrets.token_urlsafe(24)
    user = {"id": "bench", "sha256": hashlib.sha256(token.encode()).hexdigest()}
    admin = {"id": "admin", "role": "admin", "key_file": str(place.root / name / "admin.key")}
    changes = {
        "auth": {"anonymous_loopback": "none", "keys": [admin, user]},
        "limits": {"per_key": {"requests": 10**9, "tokens": 10**12}},
        "ledger": {"enabled": True},
    }
    proxy = place.proxy(name, only(upstream), workers, changes)
    headers = (("authorization", f"Bearer {token}"),)
    return Target(f"llm-proxy, {workers} worker{'s' * (workers > 1)}", proxy.port, proxy.port, proxy.pids(), headers)


def measure(quick: bool, peers: Path | None) -> Iterator[Figure]:
    """All rows of this part. `peers` is the directory of `install_peers.sh`."""
    length = Length(1, 2, 1) if quick else Length(3, 3, 3)
    if peer("wrk") is None:
        return
    with lab() as place:
        upstream = place.upstream()
        one, two = (everything_on(place, f"llm-proxy-{workers}", upstream, workers) for workers in (1, 2))
        beside = {"nginx": nginx(place, upstream), **gateways(place, peers, upstream)}
        yield from _requests(place, one, two, beside, length)
        yield from _streams(place, one, beside, upstream, length)
        yield from _latencies(place, one, beside, upstream, length)
    yield from at_rest(quick, peers)


def _requests(
    place: Lab, one: Target, two: Target, beside: dict[str, Target | None], length: Length
) -> Iterator[Figure]:
    present = [target for target in beside.values() if target is not None]
    turns = [(Kind.PROXIED, target) for target in (one, two, *present)]
    turns += [(kind, target) for kind in (Kind.STORED, Kind.HIT) for target in (one, two)]
    for connections in _CONNECTIONS:
        costs: dict[tuple[Kind, str], list[_Cost]] = {(kind, target.name): [] for kind, target in turns}
        for kind, target in turns:
            run(place.root, kind, target.port, connections, length.warm_up_seconds, target.headers)
        for _ in range(length.rounds):
            for kind, target in turns:
                costs[kind, target.name].append(_cost(place, target, kind, connections, length.seconds))
        middle = {turn: _middle(measured) for turn, measured in costs.items()}
        for name in beside:
            aim = {"nginx": _OF_NGINX, "Portkey": _OF_PORTKEY}.get(name)
            theirs = middle.get((Kind.PROXIED, name))
            yield _figure("proxied", connections, one, middle[Kind.PROXIED, one.name], name, theirs, aim)
        theirs = middle.get((Kind.PROXIED, "nginx"))
        yield _figure("proxied", connections, two, middle[Kind.PROXIED, two.name], "nginx", theirs)
        for kind, what, aim in ((Kind.STORED, "proxied and stored", None), (Kind.HIT, "cache hit", _HIT)):
            for target in (one, two):
                mine = aim if target is one else None
                yield _figure(what, connections, target, middle[kind, target.name], "nginx", theirs, mine)


def _figure(
    what: str, connections: int, target: Target, ours: _Cost, name: str, theirs: _Cost | None, aim: Aim | None = None
) -> Figure:
    return Figure(
        "CPU per request",
        f"{what}, {connections} connections, {target.name.removeprefix('llm-proxy, ')}",
        ours.microseconds,
        "µs",
        name,
        None if theirs is None else theirs.microseconds,
        aim,
        f"{ours.rate:,.0f}/s" + (f", {name} {theirs.rate:,.0f}/s" if theirs else ""),
    )


def _middle(costs: list[_Cost]) -> _Cost:
    return _Cost(median(cost.microseconds for cost in costs), median(cost.rate for cost in costs))


def _cost(place: Lab, target: Target, kind: Kind, connections: int, seconds: float) -> _Cost:
    before = cpu_seconds(target.pids)
    load = run(place.root, kind, target.port, connections, seconds, target.headers)
    return _Cost((cpu_seconds(target.pids) - before) / load.requests * 1e6, load.rate)


def _streams(
    place: Lab, ours: Target, beside: dict[str, Target | None], upstream: int, length: Length
) -> Iterator[Figure]:
    def cost(target: Target) -> float:
        chunks, cpu = _chunks(upstream), cpu_seconds(target.pids)
        run(place.root, Kind.STREAM, target.streaming, _STREAMS, length.seconds + 1, target.headers)
        sent = _chunks(upstream) - chunks
        if not sent:
            raise BenchError("no chunk was streamed")
        return (cpu_seconds(target.pids) - cpu) / sent * 1e6

    able: dict[str, Target | None] = {}
    for name, target in beside.items():
        with contextlib.suppress(BenchError):  # a gateway whose streams fail is told of, and measured no further
            able[name] = target if target is None or cost(target) else None
    measured = _in_turns([ours, *able.values()], length.rounds, cost)
    costs = {name: median(each) for name, each in measured.items()}
    what = f"{_STREAMS} streams, a chunk every 10 ms in each, 1 worker"
    for name in beside:
        absent = "not installed" if name in able else "its streams fail"
        yield Figure("CPU per stream chunk", what, costs[ours.name], "µs", name, costs.get(name), absent=absent)


def _chunks(upstream: int) -> int:
    return int(json.loads(get(upstream, "/counts")[1])["chunks"])


def _latencies(
    place: Lab, ours: Target, beside: dict[str, Target | None], upstream: int, length: Length
) -> Iterator[Figure]:
    direct = Target("direct", upstream, upstream, [])

    def load(target: Target) -> Load:
        return run(place.root, Kind.PROXIED, target.port, 1, length.seconds, target.headers)

    loads = _in_turns([direct, ours, *beside.values()], length.rounds, load)
    for at, aim in (("p50", None), ("p99", _ADDED)):
        took = {name: median(getattr(one, at) for one in measured) for name, measured in loads.items()}
        without = took["direct"]
        for name in beside:
            theirs = took[name] - without if name in took else None
            yield Figure(
                "Latency added at one connection",
                f"{at}, over {without:.0f} µs without a proxy",
                took[ours.name] - without,
                "µs",
                name,
                theirs,
                aim if name == "nginx" else None,
            )


def _in_turns(targets: Sequence[Target | None], rounds: int, look: Callable[[Target], T]) -> dict[str, list[T]]:
    """What was seen of each target that is there; all take their turn in each round."""
    found: dict[str, list[T]] = {}
    for _ in range(rounds):
        for target in targets:
            if target is not None:
                found.setdefault(target.name, []).append(look(target))
    return found
