"""A service that is no llm-proxy and mounts the memory agent: its leak is noticed, named, and ended by a restart."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from quick_playbooks import acted, done
from test_leaking_worker import hasten_all
from world import REPOSITORY, World, story

SERVICE = REPOSITORY / "tests/integration/cli/leaking_service.py"
LEAK = next(number for number, text in enumerate(SERVICE.read_text().splitlines(), 1) if "# leaks here" in text)


async def test_a_leak_of_another_service_is_named_and_ended(world: World) -> None:
    """Its agent is asked for the trend and for the line, which stands in the incident; the restart that follows closes
    it."""
    with tempfile.TemporaryDirectory(prefix="shop-") as name:
        place = Path(name)
        shutil.copy(REPOSITORY / "proxy/memory.py", place / "agent.py")
        argv = [sys.executable, str(SERVICE), str(place / "agent.py"), str(place / "kept"), str(place / "a.sock")]
        shop: dict[str, Any] = {"kind": "child", "argv": [*argv, "objects"], "memory_agents": [str(place / "a.sock")]}
        quick = {"kind": "memory_leak", "service": "shop", "interval": "200ms", "window": "60s", "min_window": "5s"}
        watch = {
            "services": {"shop": shop, "llm-proxy": None},
            "probes": {"shop": quick},
            "guards": {"backoff_initial": "1s"},
        }
        world.configure(watch=watch, routes=world.inbox.routes)
        hasten_all(world)
        await world.start()
        found = await acted(world, "service:shop", "restart_service", 100)
        await world.incident("service:shop", "resolved", 60)
    assert found["alertnames"] == ["MemoryLeakSuspected"]
    assert done(found, "stop-leak")[:3] == ["collect_garbage", "find_leak", "restart_service"], story(found)
    assert f"{SERVICE.name}:{LEAK} keeps" in story(found), story(found)
