"""What goes on during a soak: everything that production does to a proxy, at the same time.

Bulk load comes from wrk. Beside it callers come with keys good and bad, ask for models never heard of, on every path
and on none, read streams or leave them, go away in the middle of a request; a provider misbehaves in turn; workers are
recycled. Slot 0 is left alone, so that one worker lives long enough to show a trend.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson

from tests.bench.figures import BenchError
from tests.bench.lab import Proxy
from tests.bench.load import Headers, Kind, paced
from watchdog.system.process import read_anon_bytes

CONNECTIONS = 32
SAMPLES = 120
_STREAMS = 4
_VISITORS = 2
_RECYCLES = 30
_BULK_SECONDS = 30.0
_MODES: tuple[dict[str, object], ...] = (
    {"mode": "ok"},
    {"mode": "500", "for_requests": 5},
    {"mode": "ok", "chunks": 40, "chunk_delay_seconds": 0.02},
    {"mode": "cut"},
    {"mode": "reset", "for_requests": 5},
    {"mode": "429", "retry_after": 1, "for_requests": 5},
    {"mode": "malformed"},
    {"mode": "slow", "delay_seconds": 0.5, "for_requests": 20},
    {"mode": "401", "for_requests": 3},
    {"mode": "error_frame"},
    {"mode": "no_done"},
)
_ASKED = [{"role": "user", "content": "Tell me a story of some length, if you please."}]
_ENDINGS = {
    b"data: [DONE]": "whole streams",
    b'data: {"error"': "streams ended with an error frame",
}


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a caller, and how it may be answered. NUMBER in path and body becomes a number never used
    before."""

    method: str
    path: str
    expected: tuple[int, ...]
    body: dict[str, object] | None = None
    key: bool = True


VISITS = (
    Visit("POST", "/v1/chat/completions", (200,), {"model": "model-NUMBER", "messages": _ASKED}),
    Visit("POST", "/v1/chat/completions", (200,), {"model": "demo-small", "messages": _ASKED, "user": "NUMBER"}),
    Visit("POST", "/v1/completions", (200,), {"model": "demo-small", "prompt": "NUMBER"}),
    Visit("POST", "/v1/embeddings", (200,), {"model": "demo-small", "input": "NUMBER"}),
    Visit("POST", "/v1/messages", (200,), {"model": "demo-small", "max_tokens": 50, "messages": _ASKED}),
    Visit("POST", "/v1/chat/completions", (401, 429), {"model": "demo-small", "messages": _ASKED}, key=False),
    Visit("POST", "/v1/chat/completions", (400,), {"messages": "NUMBER"}),
    Visit("GET", "/v1/models", (200,)),
    Visit("GET", "/metrics", (200,)),
    Visit("GET", "/health/detailed", (200,)),
    Visit("GET", "/nowhere/NUMBER", (404,)),
    Visit("DELETE", "/v1/chat/completions", (405,)),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one worker held at a time, in seconds since the begin."""

    at: float
    bytes: float
    """Anonymous memory."""
    descriptors: float
    tasks: float


@dataclass(slots=True)
class Record:
    """What happened."""

    done: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    """What went wrong, and how often."""
    samples: dict[int, list[Sample]] = field(default_factory=dict)
    """By process."""


class Churn:
    """Everything that goes on at the same time. `keys` are what callers have to send, one of them at a time."""

    def __init__(self, directory: Path, proxy: Proxy, primary: int, rate: float, keys: tuple[Headers, ...]) -> None:
        self.record = Record()
        self._directory = directory
        self._proxy = proxy
        self._primary = primary
        self._rate = rate
        self._keys = itertools.cycle(keys)
        self._modes = itertools.cycle(_MODES)
        self._visits = itertools.cycle(VISITS)
        self._cuts = itertools.cycle((False, False, True))
        self._kinds = itertools.cycle((Kind.PROXIED, Kind.STORED, Kind.HIT))
        self._numbers = itertools.count(random.randrange(10**9))

    async def run(self, seconds: float) -> None:
        """Goes on for so long; a failing part ends it all."""
        self._began = time.monotonic()
        self._seconds = seconds
        # A fresh connection each time: a pooled one may be closed by a draining worker just as it is used again.
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(total=120)
        jobs = (
            *[(self._stream, 0.05)] * _STREAMS,
            *[(self._visit, 0.02)] * _VISITORS,
            (self._go_away, 0.1),
            (self._misbehave, 2.0),
            (self._recycle, seconds / _RECYCLES),
            (self._sample, seconds / SAMPLES),
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

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._proxy.port}{path}"

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
        for health in await asyncio.to_thread(self._proxy.health):
            with contextlib.suppress(OSError):
                own = float(read_anon_bytes(health["pid"]))
                sample = Sample(time.monotonic() - self._began, own, health["descriptors"], health["tasks"])
                self.record.samples.setdefault(health["pid"], []).append(sample)

    async def _bulk(self) -> None:
        seconds = max(1.0, min(_BULK_SECONDS, self._began + self._seconds - time.monotonic()))
        kind, port, key = next(self._kinds), self._proxy.port, next(self._keys)
        load = await asyncio.to_thread(paced, self._directory, kind, port, CONNECTIONS, seconds, self._rate, key)
        self.record.done["bulk requests"] += load.requests
        if load.errors:
            self.record.lost[f"{load.errors} of {load.requests} bulk requests failed"] += 1

    async def _visit(self) -> None:
        """One request from the list."""
        visit, number = next(self._visits), str(next(self._numbers))
        key = dict(next(self._keys)) if visit.key else {"authorization": f"Bearer wrong-{number}"}
        body = None if visit.body is None else orjson.dumps(visit.body).replace(b"NUMBER", number.encode())
        path = visit.path.replace("NUMBER", number)
        try:
            headers = key | {"content-type": "application/json"}
            async with self._session.request(visit.method, self._url(path), data=body, headers=headers) as answer:
                said = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.record.lost[f"{visit.method} {visit.path} broke: {type(error).__name__}: {error}"] += 1
            return
        if answer.status not in visit.expected:
            what = f"{visit.method} {visit.path}: {answer.status} instead of {visit.expected[0]}"
            self.record.lost[f"{what}: {said[:200]!r}"] += 1
        self.record.done["visits"] += 1

    async def _go_away(self) -> None:
        """A client that leaves: before its request is whole, or before it is answered."""
        body = orjson.dumps({"model": "demo-small", "stream": True, "messages": _ASKED})
        key = "".join(f"{name}: {value}\r\n" for name, value in next(self._keys))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: soak\r\n{key}content-length: {len(body)}\r\n\r\n"
        request = head.encode() + body
        sent = request[: random.choice((len(request), random.randrange(len(request))))]
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._proxy.port)
            writer.write(sent)
            await writer.drain()
            await asyncio.sleep(random.random() / 10)
            writer.transport.abort()
        except OSError as error:
            self.record.lost[f"a client that meant to leave was refused: {error}"] += 1
        self.record.done["clients that went away"] += 1

    async def _stream(self) -> None:
        """One stream, read to its end or abandoned by us; lost if it has no honest ending."""
        record, cut = self.record, next(self._cuts)
        body = {"model": "demo-small", "stream": True, "messages": _ASKED}
        headers = dict(next(self._keys)) | {"cache-control": "no-store"}
        try:
            async with self._session.post(self._url("/v1/chat/completions"), json=body, headers=headers) as answer:
                if answer.status != 200:
                    record.lost[f"a stream was answered {answer.status}: {(await answer.text())[:200]}"] += 1
                    return
                if cut:
                    await answer.content.readany()
                    record.done["streams cut by the caller"] += 1
                    return
                said = await answer.content.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            record.lost[f"a stream broke: {type(error).__name__}: {error}"] += 1
            return
        last = said.rstrip().rpartition(b"\n\n")[2]
        kind = next((what for begin, what in _ENDINGS.items() if last.startswith(begin)), None)
        if kind is None:
            record.lost[f"a stream ended without saying so: {last[-200:]!r}"] += 1
        else:
            record.done[kind] += 1
