"""Caches of one or more workers over one store, without providers: the tests play those."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.cache.plan import Hit, Plan
from proxy.cache.service import Caches, map_bytes
from proxy.call import Call, Operation
from proxy.clock import FakeClock
from proxy.dialects.contract import Whole
from proxy.metrics import Metrics
from proxy.settings import Settings
from proxy.shared import Shared

PROVIDER = {"name": "demo", "kind": "local", "port": 1}


def call(text: str = "hello", operation: Operation = Operation.CHAT, caller: str = "anna", **fields: Any) -> Call:
    asked = {"model": "demo-small", "messages": [{"role": "user", "content": text}], **fields}
    return Call(operation, orjson.dumps(asked), asked, asked["model"], asked.get("stream") is True, "r", caller)


def whole(text: str = "answer", *, storable: bool = True) -> Whole:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = orjson.dumps({"id": "x", "object": "chat.completion", "model": "demo-small", "choices": [choice]})
    return Whole(body, None, "demo-small", "stop", storable)


class World:
    """What workers have around them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.clock = FakeClock()
        self.asked: list[Call] = []
        self.answer: Callable[[Call], Whole | None] = lambda _call: whole("warmed")
        self.usable = True
        self.memory_percent = 20.0
        self.workers: list[tuple[Caches, Metrics]] = []
        self.shared: Shared | None = None

    def worker(self, **settings: Any) -> Caches:
        """The caches of one more worker; LMDB's environment is opened once in a process, so they have it together."""
        state = self.place / "state"
        chosen = Settings.model_validate({"providers": [PROVIDER], "state_dir": state, **settings})
        self.shared = self.shared or Shared(state / "shared", map_bytes(chosen) + 32 * 2**20, self.clock)
        metrics = Metrics(self.place / "metrics", f"worker-{len(self.workers)}")
        usable, memory = lambda: self.usable, lambda: self.memory_percent
        caches = Caches(chosen, self.shared, metrics, self.clock, self.ask, usable, memory)
        self.workers.append((caches, metrics))
        return caches

    async def ask(self, asked: Call) -> Whole | None:
        self.asked.append(asked)
        await asyncio.sleep(0)
        return self.answer(asked)

    async def end(self) -> None:
        for caches, metrics in self.workers:
            await caches.close()
            metrics.close()
        if self.shared is not None:
            self.shared.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.end()


async def look(caches: Caches, asked: Call, **headers: str) -> tuple[Plan, Hit | None]:
    """A look-up, with `_` in the headers' names for `-`."""
    plan = caches.plan(asked, {name.replace("_", "-"): value for name, value in headers.items()})
    return plan, await plan.find()


async def keep(caches: Caches, asked: Call, answer: Whole | None = None, **headers: str) -> None:
    """A miss, and the provider's answer, which is in the store afterwards: the clock stands still, and answers of one
    moment are gathered."""
    await gather(caches, asked, answer, **headers)
    for cache in caches.all.values():
        cache.behind.settle()


async def gather(caches: Caches, asked: Call, answer: Whole | None = None, **headers: str) -> None:
    """A miss, and the provider's answer, which may be on its way into the store afterwards."""
    plan, hit = await look(caches, asked, **headers)
    assert hit is None
    plan.store(answer or whole())
    plan.release()


async def outcome(caches: Caches, asked: Call, **headers: str) -> str:
    """What the caller would be told, without an answer of a provider."""
    plan, _ = await look(caches, asked, **headers)
    plan.release()
    return plan.outcome
