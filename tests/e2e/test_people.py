"""People in the loop, through the real command line: a repair that asks, an approval, a frozen daemon paused."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import urllib.request
from typing import Any

import yaml
from world import World, eventually, free_ports, story


def shop(port: int) -> dict[str, Any]:
    """A small web server that is not ours."""
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


async def test_a_repair_asks_is_paused_and_acts_when_approved(world: World) -> None:
    """The service is killed; its repair asks, on the webhook and in `status`; the daemon is frozen and paused by the
    kill switch all the same; approved it still does not act; resumed it does, and the history tells it in order."""
    (port,) = free_ports(1)
    world.configure(watch=shop(port), routes=world.inbox.routes)
    file = world.root / "config/playbooks/restore-service.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "autonomy": "approve"}))
    world.edit("playbooks/restore-service.yaml", {"hold: 5s": "hold: 1s"})
    await world.start()
    (service,) = (await world.ask("/v1/status"))["services"]
    os.kill(service["pid"], signal.SIGKILL)

    async def asking() -> bool:
        return "restore-service on service:shop would" in (await world.command("status"))[1]

    await eventually("the repair asks", asking, 30, every=0.3)
    await eventually("a person is asked", lambda: world.inbox.messages, 20)
    told = json.dumps(world.inbox.messages)
    assert "run 1 of restore-service would, at rung restart: restart service shop" in told

    assert world.watchdog is not None
    world.watchdog.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    code, said = await world.command("pause", "not", "now")
    taken = time.monotonic() - began
    world.watchdog.send_signal(signal.SIGCONT)
    assert code == 0, said
    assert "the kill switch is thrown" in said
    assert taken < 15
    code, said = await world.command("approve")
    assert code == 0, said

    async def refused() -> bool:
        why = (await world.command("explain", "1"))[1]
        return "paused by" in why and "was approved by" in why

    await eventually("approved and paused", refused, 10, every=0.3)
    assert (await world.ask("/v1/runs/1"))["effects"] == []

    code, said = await world.command("resume")
    # Thawed, the daemon found our question too and paused by itself: both go.
    assert (code, said.endswith("ended\n")) == (0, True), said
    incident = await world.incident("service:shop", "resolved", 40)
    assert incident["healed"], story(incident)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=45) as answer:
        assert answer.status == 200
    code, history = await world.command("history", "--since", "1h")
    assert code == 0
    print(f"\npause of a frozen daemon took {taken:.1f} s\n{history}")
    order = [r"opened", r"approval .*Approve within", r"approved run 1", r"resumed", r"intent", r"resolved"]
    places = [re.search(pattern, " ".join(history.split())) for pattern in order]
    assert all(places), history
    assert [place.start() for place in places if place] == sorted(place.start() for place in places if place), history
