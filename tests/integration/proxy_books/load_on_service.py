"""A real llm-proxy of a test's own, and callers who never stop asking it."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import plain_http
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "proxy_shell"))

from proxy_service import Service, make_service

CHAT = "/v1/chat/completions"


def asked(text: str, **fields: Any) -> dict[str, Any]:
    """A chat completion request."""
    return {"model": "demo-small", "messages": [{"role": "user", "content": text}], **fields}


@pytest.fixture
def books_service() -> Iterator[Service]:
    """Not started; its ledger flushes quickly, its models are known by name."""
    with tempfile.TemporaryDirectory(prefix="lb-") as name:
        made = make_service(Path(name))
        made.settings["ledger"] = {"flush_interval": "100ms"}
        made.settings["models"] = [{"name": "demo-small", "price": {"input": 1.0, "output": 2.0}}]
        yield made
        made.end()


def rows(service: Service) -> dict[str, dict[str, Any]]:
    """The ledger's rows by request, none before there is a ledger; each stands there once."""
    file = service.place / "state" / "ledger.sqlite"
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            found = [dict(row) for row in connection.execute("SELECT * FROM requests")]
    except sqlite3.OperationalError:
        return {}
    by_id = {row["request_id"]: row for row in found}
    assert len(by_id) == len(found)
    return by_id


def samples(service: Service, name: str, *parts: str) -> float:
    """The sum of the samples of this name whose labels contain each part."""
    text = plain_http.get(service.url("/metrics"), headers={"accept": "text/plain"}).text
    found = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in found if all(part in labels for part in parts))


@dataclass
class Load:
    """What the callers met: (begin, seconds) of each request that was answered well, and all that was not."""

    answered: dict[str, tuple[float, float]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    broken: int = 0

    def latencies(self, begin: float, end: float) -> list[float]:
        return sorted(seconds for at, seconds in self.answered.values() if begin <= at < end)

    def summary(self, begin: float, end: float) -> str:
        found = self.latencies(begin, end)
        at = [statistics.median(found), found[int(len(found) * 0.99)], found[-1]]
        return f"{len(found)} requests, p50/p99/max " + "/".join(f"{seconds * 1000:.1f}" for seconds in at) + " ms"


@contextmanager
def load(url: str, callers: int = 4, pause: float = 0.02) -> Iterator[Load]:
    """Asks until the end of the block, from a thread of its own. A connection that breaks is counted as broken."""
    met, over = Load(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_ask_all(url, callers, pause, met, over)))
    thread.start()
    try:
        yield met
    finally:
        over.set()
        thread.join()


async def _ask_all(url: str, callers: int, pause: float, met: Load, over: threading.Event) -> None:
    async with plain_http.AsyncClient(timeout=30) as http:

        async def ask(caller: int) -> None:
            number = 0
            while not over.is_set():
                number += 1
                name = f"caller-{caller}-{number}"
                began = time.monotonic()
                try:
                    answer = await http.post(url, json=asked(name), headers={"x-request-id": name})
                except httpx.TransportError:
                    met.broken += 1
                    continue
                if answer.status_code == 200:
                    met.answered[name] = (began, time.monotonic() - began)
                else:
                    met.failed.append(f"{name}: {answer.status_code} {answer.text}")
                await asyncio.sleep(pause)

        await asyncio.gather(*(ask(caller) for caller in range(callers)))
