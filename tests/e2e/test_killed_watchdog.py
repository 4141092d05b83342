"""kill -9 of the watchdog around every write of a playbook's life, with the real proxy as the world."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from dying_daemon import WRITES
from world import World, eventually, kinds, story

HARNESS = Path(__file__).with_name("dying_daemon.py")
EVERY = [f"{when}-{name}" for name in WRITES if name != "page" for when in ("before", "after")]
# Every write is killed at in tests/integration/healing, over real effects; here the whole programs are, at the writes
# that differ most, and at all of them by PROXYWATCH_EVERY_KILL=1.
POINTS = EVERY if os.environ.get("PROXYWATCH_EVERY_KILL") else ["after-intent", "before-result", "after-end"]


@pytest.mark.parametrize("point", POINTS)
async def test_run_is_reconciled_and_no_effect_happens_twice(world: World, point: str) -> None:
    """Killed around the write, started again: the run goes on, the worker was replaced once, the incident resolves."""
    world.configure(routes=world.inbox.routes)
    world.edit("rules/workers.yaml", {"interval: 5s": "interval: 1s", "keep_firing_for: 5s": "keep_firing_for: 1s"})
    world.edit("playbooks/restore-worker.yaml", {"hold: 2s": "hold: 1s"})
    await world.start(program=[sys.executable, str(HARNESS), str(world.config_file), point])
    await eventually("both workers serve", world.all_serve, 15)
    victim = (await world.workers())[0]
    os.kill(victim["pid"], signal.SIGSTOP)
    assert world.watchdog is not None
    assert await asyncio.wait_for(world.watchdog.wait(), 40) == -signal.SIGKILL, world.tail()
    await world.start()
    incident = await world.incident("worker:llm-proxy/0", "resolved", 60)
    effects = [e for run in incident["runs"] for e in run["effects"]]
    replaced = (await world.workers())[0]["starts"] - 1
    print(f"\n{point}: {[(e['action'], e['outcome'], e['note']) for e in effects]}")
    assert replaced == 1, f"the worker was replaced {replaced} times\n{story(incident)}"
    assert [e for e in effects if e["outcome"] is None] == [], "no effect is left open"
    assert all(run["ended_at"] for run in incident["runs"])
    assert "resumed" in kinds(incident) or point == "after-end", story(incident)
    assert world.inbox.messages == []


@pytest.mark.parametrize("point", ["before-page", "after-page"])
async def test_no_page_is_lost_or_doubled(world: World, point: str) -> None:
    """Killed around the write of a page: after the restart it is told, once."""
    proxy = {"providers": [{"name": "primary", "kind": "local", "port": world.primary}], "retry": {"rounds": 1}}
    world.configure(proxy=proxy, routes=world.inbox.routes)
    world.edit("playbooks/provider-failover.yaml", {"within: 5s": "within: 2s"})
    await world.start(program=[sys.executable, str(HARNESS), str(world.config_file), point])
    await world.demo(world.primary, mode="500")
    assert world.watchdog is not None
    async with world.load(5):
        assert await asyncio.wait_for(world.watchdog.wait(), 60) == -signal.SIGKILL, world.tail()
        await world.start()
        await world.incident("provider:primary", "escalated", 60)

        def told() -> list[object]:
            return [m for m in world.inbox.messages if "provider:primary" in str(m)]

        await eventually("a person is told", told, 30)
    await asyncio.sleep(3)  # long enough for a second one to leave, if there were one: group_interval is 1 s
    assert len(told()) == 1, [m["groupKey"] for m in world.inbox.messages]
