"""The soak: hours in minutes. Half of llm-proxy's capacity with churn, and a verdict on leaks and lost requests.

Bulk load comes from wrk. Beside it callers make what production makes: streams, streams cut by the caller, a provider
that misbehaves in turn, workers recycled. Slot 0 is left alone, so that one worker lives long enough to show a trend.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp

from tests.bench.figures import BenchError
from tests.bench.lab import Lab, Providers, Proxy, free_port, lab, until
from tests.bench.load import Kind, paced, run
from tests.bench.machine import MIB, children, living_below
from watchdog.core.trend import mann_kendall, theil_sen
from watchdog.system.process import count_descriptors, read_anon_bytes

_CONNECTIONS = 32
_STREAMS = 4
_RECYCLES = 30
_BULK_SECONDS = 30.0
_SAMPLES = 120
_WARM_UP_SHARE = 0.4
"""Of the soak: pools, caches and the allocator fill up first, which is no leak."""
_SIGNIFICANT = 0.01
_LEAK_BYTES_PER_HOUR = 8 * MIB
_SPARE_DESCRIPTORS = 8
_IDLE_SECONDS = 60.0
_MODES: tuple[dict[str, object], ...] = (
    {"mode": "ok"},
    {"mode": "500", "for_requests": 5},
    {"mode": "ok", "chunks": 40, "chunk_delay_seconds": 0.02},
    {"mode": "cut"},
    {"mode": "429", "retry_after": 1, "for_requests": 5},
    {"mode": "malformed"},
    {"mode": "slow", "delay_seconds": 0.5, "for_requests": 20},
    {"mode": "401", "for_requests": 3},
    {"mode": "no_done"},
)
_STREAM = {
    "model": "demo-small",
    "stream": True,
    "messages": [{"role": "user", "content": "Tell me a story of some length, if you please."}],
}
_HEADERS = {"cache-control": "no-store"}
_ENDINGS = {
    b"data: [DONE]": "whole streams",
    b'data: {"error"': "streams ended with an error frame",
}


@dataclass(slots=True)
class Record:
    """What happened."""

    done: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    memory: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    """By process: seconds since the begin, anonymous bytes."""


def soak(minutes: float) -> int:
    """Runs it and prints the verdict: 0, or 1 for a leak, a lost request or a process left behind."""
    seconds = minutes * 60
    with lab() as place:
        demos: Providers = [{"name": name, "kind": "local", "port": free_port()} for name in ("primary", "secondary")]
        proxy = place.proxy("llm-proxy", demos, workers=2)
        capacity = run(place.root, Kind.PROXIED, proxy.port, _CONNECTIONS, 5).rate
        until("the workers are idle", lambda: proxy.in_flight() == 0, _IDLE_SECONDS)
        descriptors = {pid: count_descriptors(pid) or 0 for pid in proxy.pids()}
        print(f"capacity {capacity:,.0f} requests/s; {minutes:g} minutes at half of it, with churn", flush=True)
        churn = _Churn(place, proxy, demos[0]["port"], capacity / 2)
        asyncio.run(churn.run(seconds))
        record = churn.record
        faults = [*record.lost[:20], *_leaks(record), *_left_open(proxy, descriptors), *_left_behind(place, proxy)]
    print(", ".join(f"{count:,} {what}" for what, count in sorted(record.done.items())))
    print("\n".join(f"FAULT {fault}" for fault in faults) or "no request lost, nothing leaked")
    return 1 if faults else 0


class _Churn:
    """Everything that goes on at the same time."""

    def __init__(self, place: Lab, proxy: Proxy, primary: int, rate: float) -> None:
        self.record = Record()
        self._place = place
        self._proxy = proxy
        self._primary = primary
        self._rate = rate
        self._modes = itertools.cycle(_MODES)
        self._cuts = itertools.cycle((False, False, True))
        self._kinds = itertools.cycle((Kind.PROXIED, Kind.STORED, Kind.HIT))

    async def run(self, seconds: float) -> None:
        """Goes on for so long; a failing part ends it all."""
        self._began = time.monotonic()
        self._seconds = seconds
        # A fresh connection each time: a pooled one may be closed by a draining worker just as it is used again.
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(total=120)
        jobs = (
            *[(self._stream, 0.05)] * _STREAMS,
            (self._misbehave, 2.0),
            (self._recycle, seconds / _RECYCLES),
            (self._sample, seconds / _SAMPLES),
            (self._bulk, 0.0),
        )
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as group:
            self._session = session
            for job, pause_seconds in jobs:
                group.create_task(self._again(job, pause_seconds))

    async def _again(self, job: Callable[[], Awaitable[None]], pause_seconds: float) -> None:
        while (left := self._began + self._seconds - time.monotonic()) > 0:
            await job()
            await asyncio.sleep(min(pause_seconds, left))

    async def _misbehave(self) -> None:
        url = f"http://127.0.0.1:{self._primary}/_demo/behaviour"
        async with self._session.post(url, json=next(self._modes)) as answer:
            if answer.status != 200:
                raise BenchError(f"the demo upstream refuses a behaviour: {await answer.text()}")
        self.record.done["changes of the provider's behaviour"] += 1

    async def _recycle(self) -> None:
        await asyncio.to_thread(self._proxy.ask, "POST", "/workers/1/recycle", 180.0)
        self.record.done["recycles"] += 1

    async def _sample(self) -> None:
        for pid in await asyncio.to_thread(self._proxy.pids):
            with contextlib.suppress(OSError):
                own = float(read_anon_bytes(pid))
                self.record.memory.setdefault(pid, []).append((time.monotonic() - self._began, own))

    async def _bulk(self) -> None:
        seconds = max(1.0, min(_BULK_SECONDS, self._began + self._seconds - time.monotonic()))
        where, port = self._place.root, self._proxy.port
        load = await asyncio.to_thread(paced, where, next(self._kinds), port, _CONNECTIONS, seconds, self._rate)
        self.record.done["bulk requests"] += load.requests
        if load.errors:
            self.record.lost.append(f"{load.errors} of {load.requests} bulk requests failed")

    async def _stream(self) -> None:
        """One stream, read to its end or abandoned by us; lost if it has no honest ending."""
        record, cut = self.record, next(self._cuts)
        url = f"http://127.0.0.1:{self._proxy.port}/v1/chat/completions"
        try:
            async with self._session.post(url, json=_STREAM, headers=_HEADERS) as answer:
                if answer.status != 200:
                    record.lost.append(f"a stream was answered {answer.status}: {(await answer.text())[:200]}")
                    return
                if cut:
                    await answer.content.readany()
                    record.done["streams cut by the caller"] += 1
                    return
                said = await answer.content.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            record.lost.append(f"a stream broke: {type(error).__name__}: {error}")
            return
        last = said.rstrip().rpartition(b"\n\n")[2]
        kind = next((what for begin, what in _ENDINGS.items() if last.startswith(begin)), None)
        if kind is None:
            record.lost.append(f"a stream ended without saying so: {last[-200:]!r}")
        else:
            record.done[kind] += 1


def _leaks(record: Record) -> list[str]:
    """Processes whose memory still grows for certain after the warm-up, faster than it may."""
    found = []
    end = max((points[-1][0] for points in record.memory.values()), default=0.0)
    for pid, points in record.memory.items():
        late = [point for point in points if point[0] >= end * _WARM_UP_SHARE]
        if len(late) < _SAMPLES * (1 - _WARM_UP_SHARE) / 2:
            continue
        trend, line = mann_kendall([value for _, value in late]), theil_sen(late)
        hourly = line.slope * 3600 if line else 0.0
        print(
            f"process {pid}: {late[0][1] / MIB:.1f} to {late[-1][1] / MIB:.1f} MiB of its own, "
            f"{hourly / MIB:+.2f} MiB/h, tau {trend.tau:.2f}, p {trend.p:.3g}"
        )
        if trend.tau > 0 and trend.p < _SIGNIFICANT and hourly > _LEAK_BYTES_PER_HOUR:
            found.append(f"process {pid} leaks {hourly / MIB:.1f} MiB/h")
    if not found and not record.memory:
        raise BenchError("no memory was sampled")
    return found


def _left_open(proxy: Proxy, before: dict[int, int]) -> list[str]:
    """Processes that hold more descriptors than before the load, beyond a few pooled connections."""

    def excess() -> dict[int, int]:
        now = {pid: count_descriptors(pid) for pid in proxy.pids() if pid in before}
        return {pid: (count or 0) - before[pid] - _SPARE_DESCRIPTORS for pid, count in now.items()}

    with contextlib.suppress(BenchError):
        until("descriptors are closed", lambda: all(more <= 0 for more in excess().values()), _IDLE_SECONDS, 0.5)
    return [f"process {pid} holds {more} descriptors too many" for pid, more in excess().items() if more > 0]


def _left_behind(place: Lab, proxy: Proxy) -> list[str]:
    """Processes of llm-proxy that its master has lost."""
    orphans = set(living_below(place.root)) - {proxy.pid, *children(proxy.pid)}
    return [f"process {pid} was left behind" for pid in sorted(orphans)]
