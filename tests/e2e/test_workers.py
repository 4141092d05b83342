"""What happens to workers: killed, stopped, blocked, crashing at each start. Real processes, real signals."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from typing import Any

import aiohttp
from world import World, eventually, kinds, story

FAST = {"guards": {"backoff_initial": "1s", "backoff_max": "2s"}}


def prepare(world: World, **over: Any) -> None:
    """The shipped configuration, which is surer of the end only after less time."""
    world.configure(**over)
    world.edit("rules/workers.yaml", {"interval: 5s": "interval: 1s", "keep_firing_for: 5s": "keep_firing_for: 1s"})
    world.edit("playbooks/restore-worker.yaml", {"hold: 2s": "hold: 1s"})


async def test_killed_worker_is_replaced_and_the_incident_closes_by_itself(world: World) -> None:
    """kill -9 of a worker under 200 requests/s: replaced, verified, closed; only what it had in flight is lost."""
    prepare(world, routes=world.inbox.routes)
    await world.start()
    await eventually("both workers serve", world.all_serve, 15)
    async with world.load(200) as calls:
        await eventually("callers are answered", lambda: calls.answered > 200, 15)
        victim = (await world.workers())[0]
        in_flight_at_most = 200
        began = time.monotonic()
        os.kill(victim["pid"], signal.SIGKILL)

        async def replaced() -> bool:
            workers = await world.workers()
            return workers[0]["pid"] not in (None, victim["pid"]) and all(w["state"] == "serving" for w in workers)

        await eventually("two workers serve again", replaced, 10, every=0.01)
        seconds = time.monotonic() - began
    incident = await world.incident("worker:llm-proxy/0", "resolved", 30)
    print(f"\nfrom kill to two serving workers: {seconds:.3f} s; {calls.answered} answered, {len(calls.failures)} lost")
    answered_badly = [failure for failure in calls.failures if failure[0].isdigit()]
    assert not answered_badly, "nothing but the connections of the killed worker may fail"
    assert len(calls.failures) <= in_flight_at_most * seconds
    assert "verified" in kinds(incident), story(incident)
    assert "intent" not in kinds(incident), "the master repaired it; nothing was left for us to do\n" + story(incident)
    assert world.inbox.messages == [], "it healed by itself: nobody has to be told"


async def test_stopped_worker_is_noticed_by_its_silence(world: World) -> None:
    """kill -STOP of a worker: noticed within 3 s, evidence taken, replaced, verified, closed."""
    prepare(world)
    await world.start()
    await eventually("both workers serve", world.all_serve, 15)
    victim = (await world.workers())[1]
    at = time.time()
    os.kill(victim["pid"], signal.SIGSTOP)
    incident = await world.incident("worker:llm-proxy/1", "resolved", 60)
    noticed = incident["opened_at"]["epoch"] - at
    print(f"\nnoticed after {noticed:.2f} s, repaired after {incident['resolved_at']['epoch'] - at:.2f} s")
    assert noticed < 3.0, story(incident)
    evidence = {
        line["data"]["name"]: line["data"]["text"] for line in incident["timeline"] if line["kind"] == "evidence"
    }
    assert "T (stopped)" in evidence["worker_process"], evidence["worker_process"]
    assert evidence["service_log"]
    order = kinds(incident)
    assert order.index("evidence") < order.index("intent") < order.index("done") < order.index("verified")
    assert await eventually("both serve", world.all_serve, 10)
    assert (await world.workers())[1]["pid"] != victim["pid"]


async def test_blocked_event_loop_names_the_guilty_line(world: World) -> None:
    """A worker whose loop is blocked: the stack dump in the incident names file and line; it is replaced."""
    prepare(world)
    await world.start()
    await eventually("both workers serve", world.all_serve, 15)
    headers = {"authorization": f"Bearer {world.admin_key}"}
    url = f"http://127.0.0.1:{world.port}/debug/fault"
    before = {w["slot"]: w["pid"] for w in await world.workers()}
    async with aiohttp.ClientSession() as session:
        fault = asyncio.create_task(post_and_forget(session, url, {"kind": "block", "seconds": 60}, headers))

        async def hung() -> dict[str, object] | None:
            found = [i for i in await world.incidents() if i["target"].startswith("worker:")]
            return found[0] if found else None

        target = (await eventually("the hung worker is noticed", hung, 10))["target"]
        incident = await world.incident(str(target), "resolved", 60)
        fault.cancel()
        await asyncio.gather(fault, return_exceptions=True)
    stacks = next(
        line["data"]["text"]
        for line in incident["timeline"]
        if line["kind"] == "evidence" and line["data"]["name"] == "worker_stacks"
    )
    assert 'proxy/faults.py", line ' in stacks, stacks
    slot = int(str(target).rpartition("/")[2])
    assert {w["slot"]: w["pid"] for w in await world.workers()}[slot] != before[slot]


async def test_crash_loop_backs_off_escalates_and_recovers_without_a_person(world: World) -> None:
    """A worker that crashes at each start: backoff grows, the budget ends the attempts, the incident escalates with
    the reason; when the cause is gone it recovers by itself."""
    key = world.root / "provider.key"
    key.write_text("sk-test\n")
    key.chmod(0o600)
    provider = {
        "name": "keyed",
        "kind": "openai",
        "base_url": f"http://127.0.0.1:{world.secondary}/v1",
        "api_key_file": str(key),
    }
    primary = {"name": "primary", "kind": "local", "port": world.primary}
    prepare(world, proxy={"providers": [primary, provider]}, watch=FAST)
    playbook = world.root / "config/playbooks/restore-worker.yaml"
    playbook.write_text(re.sub(r"^budget: .*$", "budget: {1h: 1, 24h: 6}", playbook.read_text(), flags=re.MULTILINE))
    await world.start()
    await eventually("both workers serve", world.all_serve, 15)
    key.rename(world.root / "away.key")
    os.kill((await world.workers())[0]["pid"], signal.SIGKILL)
    incident = await world.incident("worker:llm-proxy/0", "escalated", 90)
    text = story(incident)
    assert "budget" in incident["reason"], f"{incident['reason']}\n{text}"
    assert [line for line in incident["timeline"] if line["kind"] == "intent"], text
    first = (await world.workers())[0]
    assert first["consecutive_crashes"] >= 3
    assert "provider.key" in (first["last_exit"] or ""), first
    assert (await world.workers())[1]["state"] == "serving", "the healthy worker was left alone"
    (world.root / "away.key").rename(key)
    whole = await world.incident("worker:llm-proxy/0", "resolved", 60)
    assert whole["id"] == incident["id"]
    assert await world.all_serve()


async def post_and_forget(session: aiohttp.ClientSession, url: str, body: object, headers: dict[str, str]) -> None:
    """Sends a request that may never be answered."""
    try:
        async with session.post(url, json=body, headers=headers) as response:
            await response.read()
    except aiohttp.ClientError:
        return
