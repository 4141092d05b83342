"""A worker that leaks for real is noticed by its trend, its line is named, and it is replaced without a person."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from planted.planting import build, line
from quick_playbooks import acted, done, hasten
from world import World, eventually, story

QUICK: dict[str, Any] = {
    "probes": {"leak": {"interval": "200ms", "window": "60s", "min_window": "5s"}},
    "guards": {"backoff_initial": "1s"},
}


def leak(world: World, case: str | None) -> None:
    """Worker 0 leaks so, or no more."""
    file: Path = world.root / "cases.json"
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps({"cases": {} if case is None else {"0": case}, "provider": world.primary}))
    fresh.replace(file)


def hasten_all(world: World) -> None:
    """The shipped rules and playbook on a scale of seconds."""
    hasten(world, "rules/memory.yaml", {">= 1800": ">= 5", "for: 5m": "for: 300ms"})
    hasten(
        world,
        "playbooks/stop-leak.yaml",
        {
            "settle: 5s, hold: 5s, within: 1m": "settle: 1s, hold: 1s, within: 3s",
            "duration: 5m, snapshots: 4, share: 0.1": "duration: 6s, quiet: 1s, snapshots: 4, share: 0.3",
        },
    )


async def test_a_leak_is_named_and_its_worker_replaced(world: World) -> None:
    """Collecting garbage does not help, so the line that leaks is found in the live worker and stands in the incident;
    then a fresh worker takes its place, the incident closes, and neither callers nor a person hear of it."""
    build(world.root / "build")
    leak(world, None)
    argv = ["/usr/bin/env", f"PYTHONPATH={world.root / 'build'}", f"PLANTED_CASES={world.root / 'cases.json'}"]
    argv += [sys.executable, "-m", "proxy", "run", "--config", str(world.root / "config/llm-proxy.yaml")]
    world.configure(watch={**QUICK, "services": {"llm-proxy": {"argv": argv}}}, routes=world.inbox.routes)
    hasten_all(world)
    await world.start()
    await eventually("the workers serve", world.all_serve, 30)
    before, other = await world.workers()
    async with world.load(50) as calls:
        leak(world, "unbounded_cache")
        found = await acted(world, "worker:llm-proxy/0", "recycle_worker", 100)
        leak(world, None)
        await world.incident("worker:llm-proxy/0", "resolved", 45)
    assert found["alertnames"] == ["MemoryLeakSuspected"]
    assert done(found, "stop-leak") == ["collect_garbage", "find_leak", "recycle_worker"], story(found)
    assert f"planted.py:{line('unbounded_cache')} " in story(found), story(found)
    after, still = await world.workers()
    assert (after["pid"] != before["pid"], still["pid"]) == (True, other["pid"])
    assert calls.failures == []
    assert world.inbox.messages == []
