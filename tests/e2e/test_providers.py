"""Faults of the remote side: told apart, bridged by the other provider, never answered by touching this host."""

from __future__ import annotations

import time

import pytest
from world import World, eventually, story

LIMITS = {"timeouts": {"first_byte": "1s", "answer": "1s"}}


@pytest.mark.parametrize(
    ("behaviour", "fault"),
    [({"mode": "500"}, "outage"), ({"mode": "401"}, "auth"), ({"mode": "silent"}, "timeout")],
)
async def test_failing_provider_is_bridged_and_nothing_local_is_touched(
    world: World, behaviour: dict[str, object], fault: str
) -> None:
    """500, 401, nothing at all: three classifications; traffic moves over and comes back within 30 s of recovery."""
    world.configure(proxy=LIMITS, routes=world.inbox.routes)
    await world.start()
    await eventually("both workers serve", world.all_serve, 15)
    before = [worker["pid"] for worker in await world.workers()]
    async with world.load(20) as calls:
        await eventually("the primary answers", lambda: calls.providers.get("primary", 0) > 10, 15)
        await world.demo(world.primary, **behaviour)

        async def bridged() -> bool:
            found = await world.incidents("provider:primary")
            return bool(found) and found[0]["state"] == "verifying" and found[0]["run"] is None

        await eventually("the incident is kept at bay", bridged, 40)
        found = (await world.incidents("provider:primary"))[0]
        assert fault in found["title"], found["title"]
        code, explained = await world.command("explain", "provider:primary")
        assert code == 0
        assert "no local process" in explained.lower(), explained
        served = calls.providers.get("secondary", 0)
        await eventually("the secondary answers", lambda: calls.providers.get("secondary", 0) > served + 20, 15)
        await world.demo(world.primary, mode="ok")
        at, answered = time.monotonic(), calls.providers["primary"]
        await eventually("the primary answers again", lambda: calls.providers["primary"] > answered + 20, 30)
        back = time.monotonic() - at
        incident = await world.incident("provider:primary", "resolved", 60)
    print(f"\n{fault}: back on the primary after {back:.1f} s; {calls.answered} answered, {len(calls.failures)} failed")
    assert calls.failures == []
    assert [worker["pid"] for worker in await world.workers()] == before, "no worker was replaced"
    disturbed = [e["action"] for run in incident["runs"] for e in run["effects"] if e["disruptive"]]
    assert disturbed == [], story(incident)
    paged = [m for m in world.inbox.messages if "provider:primary" in str(m)]
    assert bool(paged) == (fault == "auth"), "only a refused key needs a person"
