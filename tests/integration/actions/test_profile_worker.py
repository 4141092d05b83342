"""Profiles of a real worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from watchdog.core.model import Outcome
from watchdog.errors import ActionError
from watchdog.system.http import HttpClient
from watchdog.system.proxy_api import ProxyApi

WORKER = "worker:llm-proxy/0"


async def test_a_profile_names_what_holds_the_worker(make: Any, proxy: ProxyApi) -> None:
    """A worker whose event loop is blocked is busy in every look, in the function that blocks it."""
    assert proxy.endpoint.admin_key_file is not None
    headers = {"authorization": f"Bearer {proxy.endpoint.admin_key_file.read_text().strip()}"}
    client = HttpClient()
    url, fault = f"{proxy.endpoint.url}/debug/fault", {"kind": "block", "seconds": 5}
    blocking = asyncio.create_task(client.request("POST", url, headers=headers, json=fault, timeout=30))
    try:
        async with asyncio.timeout(3):
            while "hold_the_event_loop" not in await proxy.worker_stacks(0):
                await asyncio.sleep(0.01)
        said = await make("profile_worker", WORKER, proxy, duration="500ms").perform({})
    finally:
        assert (await blocking).status_code == 200
        await client.close()
    seen, looks = map(int, said.partition(" busy in ")[2].partition(" looks")[0].split(" of "))
    assert seen == looks >= 3
    assert said.split(": ")[1].startswith("100% proxy/faults.py:")
    assert "hold_the_event_loop ← " in said


async def test_an_idle_worker_is_busy_with_nothing(make: Any, proxy: ProxyApi) -> None:
    """Between two callbacks the event loop waits, which is no load; few looks if any meet one of its timers."""
    said = await make("profile_worker", WORKER, proxy, duration="1s", frequency=10).perform({})
    seen, looks = map(int, said.partition(" busy in ")[2].partition(" looks")[0].split(" of "))
    assert looks >= 3
    assert seen <= looks / 2


async def test_on_the_host_the_busiest_worker_is_profiled(make: Any, proxy: ProxyApi) -> None:
    """The target names none, so the one that takes most processor time is looked at."""
    profile = make("profile_worker", "host", proxy, duration="300ms")
    assert profile.describe() == "profile the busiest worker for 300ms"
    assert (await profile.perform({})).startswith("worker 0 was busy in ")


async def test_a_worker_that_is_not_there_has_no_profile(make: Any, proxy: ProxyApi) -> None:
    """The master says so, and nothing is made up; that a profile leaves nothing behind is known."""
    action = make("profile_worker", "worker:llm-proxy/7", proxy)
    with pytest.raises(ActionError, match="/workers/7/stacks answered 404"):
        await action.perform({})
    assert (await action.observe({})).outcome is Outcome.NOT_DONE
