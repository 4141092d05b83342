"""Whole services: our proxy gone at once, and a service that is not ours, watched by a few lines of YAML."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import urllib.request
from typing import Any

from world import World, eventually, free_ports, story


async def test_killed_proxy_is_started_again_as_one_incident(world: World) -> None:
    """kill -9 of master and workers: one repair, by restart; what its workers show meanwhile starts no run."""
    world.configure(routes=world.inbox.routes)
    await world.start()
    await eventually("both workers serve", world.all_serve, 15)
    master = await world.master()
    at = time.monotonic()
    for pid in [master["pid"], *(worker["pid"] for worker in master["workers"])]:
        os.kill(pid, signal.SIGKILL)

    async def serves() -> bool:
        with contextlib.suppress(OSError):
            return bool((await world.master())["pid"] != master["pid"] and await world.all_serve())
        return False

    await eventually("the proxy serves again", serves, 30)
    print(f"\nall serve again {time.monotonic() - at:.2f} s after kill -9 of everything")
    incident = await world.incident("service:llm-proxy", "resolved", 60)
    assert [e["action"] for run in incident["runs"] for e in run["effects"]] == ["restart_service"], story(incident)
    for other in await world.incidents():
        if other["target"].startswith("worker:"):
            whole = await world.ask(f"/v1/incidents/{other['id']}")
            assert whole["acted_at"] is None, story(whole)
    assert world.inbox.messages == []


def page(port: int) -> dict[str, Any]:
    """What README shows for one's own service."""
    url = f"http://127.0.0.1:{port}/"
    argv = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    return {
        "services": {"llm-proxy": None, "shop": {"kind": "child", "argv": argv, "ready_url": url}},
        "probes": {
            **dict.fromkeys(["process", "workers", "proxy", "providers", "cache", "leak", "front"]),
            "shop": {"kind": "process", "service": "shop"},
            "shop-page": {"kind": "http", "service": "shop", "url": url},
        },
    }


async def test_any_service_is_healed_by_configuration_alone(world: World) -> None:
    """A small web server that is not ours is killed: noticed at once, started again, verified, closed."""
    (port,) = free_ports(1)
    world.configure(watch=page(port))
    await world.start()
    status = await world.ask("/v1/status")
    (shop,) = [service for service in status["services"] if service["name"] == "shop"]
    os.kill(shop["pid"], signal.SIGKILL)
    incident = await world.incident("service:shop", "resolved", 40)
    print(f"\n{story(incident)}")
    assert incident["healed"]
    assert incident["seconds_to_detect"] < 1
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=45) as answer:
        assert answer.status == 200
