"""The last resort on a whole installation: from a proxy that cannot start to one that serves, or everything as found."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from world import QUESTION, World, eventually, story

SERVICE = "service:llm-proxy"


def prepare(world: World, **playbook: Any) -> None:
    """The shipped configuration, quick; the ordinary ladder only restarts, so that the last resort's turn comes."""
    quick = {
        "backups": {"look_every": "500ms"},
        "guards": {
            "budget": {"1h": 30},
            "host_budget": {"1h": 60},
            "backoff_initial": "100ms",
            "backoff_max": "60s",
        },
        "services": {"llm-proxy": {"recovery": {"needs": {"ports": [world.port]}}}},
    }
    world.configure(watch=quick, routes=world.inbox.routes)
    ladders = world.root / "config/playbooks"
    ordinary = yaml.safe_load((ladders / "restore-service.yaml").read_text())
    del ordinary["ladder"][1:]
    ordinary["ladder"][0] = {**ordinary["ladder"][0], "attempts": 1, "when": ""}
    ordinary["ladder"][0]["verify"] |= {"hold": "1s", "within": "5s"}
    (ladders / "restore-service.yaml").write_text(yaml.safe_dump(ordinary))
    last = yaml.safe_load((ladders / "emergency-recovery.yaml").read_text())
    last["ladder"][0]["steps"][-1] |= {"interval": "200ms", "timeout": "30s"}
    last["ladder"][0]["verify"] |= {"hold": "1s"}
    (ladders / "emergency-recovery.yaml").write_text(yaml.safe_dump({**last, "autonomy": "auto", **playbook}))


def archives(world: World) -> list[Path]:
    """Of the proxy, newest first."""
    return sorted((world.root / "var/lib/proxywatch/backups").glob("llm-proxy-*.tar.gz"), reverse=True)


def ledger(world: World) -> Path:
    return world.root / "var/lib/llm-proxy/ledger.sqlite"


def rows(world: World) -> int:
    with closing(sqlite3.connect(f"file:{ledger(world)}?mode=ro", uri=True)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return int(opened.execute("SELECT count(*) FROM requests").fetchone()[0])


async def ask(world: World) -> int:
    """One question to the proxy, answered."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{world.port}/v1/chat/completions", json=QUESTION) as response,
    ):
        await response.read()
        return response.status


async def served_and_archived(world: World) -> None:
    """A request is in the ledger, and an archive holds both."""
    await world.start()
    await eventually("the proxy answers", lambda: ask(world), 20)
    await eventually("the request is in the ledger", lambda: ledger(world).exists() and rows(world) >= 1, 20)
    code, output = await world.command("backup", "create", "llm-proxy")
    assert code == 0, output
    assert archives(world)


async def ruin(world: World) -> None:
    """The configuration is broken, the proxy is killed, and its ledger is overwritten in the middle."""
    file = world.root / "config/llm-proxy.yaml"
    file.write_text(file.read_text().replace("providers:", "provider:", 1))
    master = await world.master()
    for pid in [master["pid"], *(worker["pid"] for worker in master["workers"])]:
        os.kill(pid, signal.SIGKILL)
    for suffix in ("-wal", "-shm"):
        Path(f"{ledger(world)}{suffix}").unlink(missing_ok=True)
    with ledger(world).open("r+b") as opened:
        opened.seek(0)
        opened.write(b"\xa5" * 4096)


async def test_from_a_proxy_that_cannot_start_to_one_that_serves(world: World) -> None:
    """Configuration broken and ledger corrupted: the restarts fail, the last resort puts both back and starts it with
    a minimal configuration; it serves, and the rows from before are there."""
    prepare(world)
    await served_and_archived(world)
    before = rows(world)
    await ruin(world)
    incident = await world.incident(SERVICE, "resolved", 100)
    print(f"\n{story(incident)}")
    assert [run["playbook"] for run in incident["runs"]] == ["restore-service", "emergency-recovery"]
    assert [e["action"] for e in incident["runs"][-1]["effects"]] == [
        "stop_service",
        "check_resources",
        "clear_temporary",
        "restore_archive",
        "reset_cache",
        "start_service",
        "watch_service",
    ]
    assert await ask(world) == 200
    assert rows(world) >= before
    now = yaml.safe_load((world.root / "config/llm-proxy.yaml").read_text())
    assert now["workers"] == 1
    assert [provider["name"] for provider in now["providers"]] == ["primary", "secondary"]
